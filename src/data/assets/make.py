#!/usr/bin/env python3
"""Makes the sprite sheets and the concept table of the built-in scenes.

    python3 make.py FLUENT_DIR EMOJIBASE_DIR NOTO_DIR [OUT_DIR]

The three folders are the unpacked npm packages (`npm pack NAME@VERSION`, then `tar xzf`, folder `package`):

    @lobehub/fluent-emoji-3d 1.1.0     assets/<code points>.webp, 256 x 256 RGBA (Microsoft Fluent Emoji, MIT)
    emojibase-data 17.0.0              en/data.json, the names each code point sequence is checked against (MIT)
    emoji-datasource-google 16.0.0     img/google/64/<code points>.png, 64 x 64 RGBA (Noto Emoji, Apache-2.0)

Needs Pillow with WebP (made with 13.0). Writes into OUT_DIR (default: the folder of this script):

    concepts.tsv   one line per concept: code, name, plural, article, category; the order is the concept index
    fluent.webp    the sheet: cell i at column i % 16, row i / 16, 64 x 64 pixels each, RGBA
    noto.webp      the same cells in the other art style

Every sprite is cropped to its visible pixels (alpha > 8), scaled so that its longer side is 62 pixels, and centred in
its cell, so that the scale of an object in a scene means the same for every concept. Colours are reduced to 32 levels
per channel before lossless WebP, which keeps both sheets together under 3 MB without a visible change.
"""
import json
import os
import sys

from PIL import Image

CELL = 64
COLUMNS = 16
INNER = 62

# The first 64: short everyday names, visually far apart. `code name[/plural] category`.
TINY = """
1f431 cat animal; 1f436 dog animal; 1f40e horse animal; 1f404 cow animal; 1f416 pig animal; 1f407 rabbit animal
1f981 lion animal; 1f418 elephant animal; 1f43b bear animal; 1f438 frog animal; 1f986 duck bird; 1f427 penguin bird
1f989 owl bird; 1f41f fish/fish sea; 1f40b whale sea; 1f980 crab sea; 1f419 octopus/octopuses sea; 1f422 turtle animal
1f40d snake animal; 1f41d bee bug; 1f98b butterfly bug; 1f40c snail bug; 1f34e apple fruit; 1f34c banana fruit
1f34b lemon fruit; 1f353 strawberry fruit; 1f34d pineapple fruit; 1f349 watermelon fruit; 1f955 carrot vegetable
1f346 eggplant vegetable; 1f344 mushroom vegetable; 1f95a egg food; 1f355 pizza food; 1f354 burger food
1f382 cake sweet; 1f369 donut sweet; 1f697 car vehicle; 1f68c bus/buses vehicle; 1f69a truck vehicle
1f686 train vehicle; 26f5 boat ship; 2708 plane aircraft; 1f680 rocket aircraft; 1f6b2 bicycle vehicle
1f333 tree plant; 1f335 cactus/cactuses plant; 1f339 rose plant; 1f33b sunflower plant; 2600 sun sky; 1f319 moon sky
2b50 star sky; 2601 cloud sky; 2602 umbrella clothing; 1f3e0 house building; 1f511 key tool; 1f4d5 book office
1fa91 chair household; 1f3b8 guitar music; 1f941 drum music; 1f514 bell music; 1f451 crown clothing
1f3a9 hat clothing; 1f45f shoe clothing; 1f388 balloon toy
"""

# The others, by category.
REST = """
animal: 1f412 monkey; 1f98d gorilla; 1f9a7 orangutan; 1f429 poodle; 1f43a wolf/wolves; 1f98a fox/foxes; 1f99d raccoon; 1f405 tiger
animal: 1f406 leopard; 1f984 unicorn; 1f993 zebra; 1f98c deer/deer; 1f402 ox/oxen; 1f403 buffalo/buffaloes; 1f417 boar; 1f40f ram
animal: 1f411 sheep/sheep; 1f410 goat; 1f42a camel; 1f999 llama; 1f992 giraffe; 1f9a3 mammoth; 1f98f rhino; 1f99b hippo; 1f401 mouse/mice
animal: 1f400 rat; 1f439 hamster; 1f43f squirrel; 1f994 hedgehog; 1f987 bat; 1f43b-200d-2744 polar bear; 1f428 koala; 1f43c panda
animal: 1f9a5 sloth; 1f9a6 otter; 1f9a8 skunk; 1f998 kangaroo; 1f9a1 badger; 1f40a crocodile; 1f98e lizard; 1f409 dragon
animal: 1f995 dinosaur; 1f996 tyrannosaur
bird: 1f983 turkey; 1f414 chicken; 1f413 rooster; 1f423 chick; 1f54a dove; 1f985 eagle; 1f9a2 swan; 1f9a4 dodo
bird: 1f9a9 flamingo; 1f99a peacock; 1f99c parrot; 1fab6 feather; 1faba nest
bug: 1f41b caterpillar; 1f41c ant; 1fab2 beetle; 1f41e ladybug; 1f997 cricket; 1f577 spider; 1f982 scorpion; 1f99f mosquito/mosquitoes
bug: 1fab0 fly; 1fab1 worm
sea: 1f42c dolphin; 1f9ad seal; 1f421 blowfish/blowfish; 1f988 shark; 1f41a seashell; 1fab8 coral; 1f99e lobster; 1f990 shrimp; 1f991 squid
plant: 1f490 bouquet; 1f338 cherry blossom; 1fab7 lotus/lotuses; 1f33a hibiscus/hibiscuses; 1f33c daisy; 1f337 tulip
plant: 1fab4 potted plant; 1f332 pine tree; 1f334 palm tree; 1f33e wheat; 1f340 clover; 1f341 maple leaf/maple leaves; 1f331 sprout
fruit: 1f347 grape bunch/grape bunches; 1f348 melon; 1f34a orange; 1f96d mango/mangoes; 1f350 pear; 1f351 peach
fruit: 1f352 cherry; 1fad0 blueberry; 1f95d kiwi; 1f965 coconut; 1fad2 olive
vegetable: 1f951 avocado; 1f345 tomato/tomatoes; 1f954 potato/potatoes; 1f33d corn cob; 1f336 chili; 1fad1 pepper; 1f952 cucumber
vegetable: 1f96c lettuce; 1f966 broccoli; 1f9c4 garlic; 1f9c5 onion; 1f95c peanut; 1f330 chestnut
food: 1f35e bread; 1f950 croissant; 1f956 baguette; 1f968 pretzel; 1f96f bagel; 1f95e pancake stack; 1f9c7 waffle; 1f9c0 cheese; 1f357 drumstick
food: 1f969 steak; 1f953 bacon; 1f35f fries box; 1f32d hot dog; 1f96a sandwich; 1f32e taco; 1f32f burrito; 1f373 fried egg
food: 1f957 salad; 1f37f popcorn; 1f9c8 butter; 1f96b tin can; 1f371 bento; 1f359 rice ball; 1f35d spaghetti; 1f363 sushi/sushi
food: 1f364 fried shrimp; 1f961 takeout box; 1f35c soup bowl; 1f9c2 salt shaker
sweet: 1f366 ice cream; 1f36a cookie; 1f370 cake slice; 1f9c1 cupcake; 1f967 pie; 1f36b chocolate; 1f36c candy; 1f36d lollipop
sweet: 1f36e custard; 1f36f honey pot; 1f367 shaved ice; 1f361 dango
drink: 1f37c baby bottle; 1f95b milk glass; 2615 coffee; 1fad6 teapot; 1f375 tea bowl; 1f377 wine glass; 1f378 cocktail; 1f37a beer mug
drink: 1f964 soda cup; 1f9cb bubble tea; 1f9c3 juice box; 1f37e champagne; 1f3fa vase; 1fad9 jar
vehicle: 1f682 locomotive; 1f68b tram; 1f690 minibus; 1f691 ambulance; 1f692 fire truck; 1f693 police car; 1f695 taxi; 1f699 jeep
vehicle: 1f6fb pickup; 1f69c tractor; 1f3ce race car; 1f3cd motorcycle; 1f6f5 scooter; 1f6fa rickshaw; 1f6f4 kick scooter
vehicle: 1f6f9 skateboard; 1f6de wheel; 1f69b lorry
ship: 1f6f6 canoe; 1f6a4 speedboat; 1f6f3 ocean liner; 26f4 ferry; 1f6a2 ship; 2693 anchor; 1f6df lifebuoy
aircraft: 1f681 helicopter; 1fa82 parachute; 1f6f0 satellite; 1f6f8 flying saucer; 1fa81 kite
building: 1f3db temple; 1f6d6 hut; 1f3e2 office tower; 1f3ed factory; 1f3f0 castle; 26f2 fountain; 26fa tent; 1f3aa circus tent
building: 1f3a1 ferris wheel; 26ea church; 1f54c mosque; 1f5fc tower; 1f5fd statue; 1f30b volcano; 1f3df stadium; 1f3e5 hospital; 1f3eb school; 26e9 gate
sky: 1fa90 planet; 26a1 lightning; 2744 snowflake; 26c4 snowman/snowmen; 2604 comet; 1f525 fire; 1f4a7 droplet; 1f308 rainbow; 1f32a tornado; 1f30d globe; 1f30a wave
toy: 1f383 pumpkin; 1f384 christmas tree; 1f381 gift; 1f380 ribbon; 1fa80 yoyo; 1f3b1 billiard ball; 1f52e crystal ball; 1f3ae gamepad; 1f579 joystick
toy: 1f3b2 dice; 1f9e9 puzzle piece; 1f9f8 teddy bear; 1fa85 pinata; 1faa9 disco ball; 1fa86 nesting doll; 1f9e8 firecracker
sport: 26bd football; 26be baseball; 1f3c0 basketball; 1f3d0 volleyball; 1f3c8 rugby ball; 1f3be racket; 1f94f frisbee; 1f3b3 bowling pin
sport: 1f3d3 paddle; 1f94a boxing glove; 26f8 ice skate; 1f6f7 sled; 1f3c6 trophy; 1f3c5 medal; 1f3af target; 1f3f9 bow
office: 1f4da book stack; 1f4d3 notebook; 1f4dc scroll; 1f4f0 newspaper; 1f516 bookmark; 2709 envelope; 1f4e6 package; 1f4ee mailbox
office: 1f4bc briefcase; 1f4c1 folder; 1f4c5 calendar; 1f4cb clipboard; 1f4cc pushpin; 1f4ce paperclip; 1f4cf ruler; 270f pencil; 1f58b fountain pen
office: 1f58c paintbrush; 1f58d crayon; 1f5d1 trash can; 1f3a8 palette; 1fa99 coin; 1f4b0 money bag
clothing: 1f454 tie; 1f455 shirt; 1f9e3 scarf; 1f9e5 coat; 1f457 dress; 1f458 kimono; 1fa71 swimsuit; 1f45b purse; 1f45c handbag; 1f392 backpack
clothing: 1fa74 sandal; 1f97e boot; 1f460 high heel; 1f9e2 cap; 1fa96 helmet; 1f484 lipstick; 1f48d ring; 1f48e diamond; 1f393 graduation cap
device: 1f4f7 camera; 1f4bb laptop; 1f5a8 printer; 2328 keyboard; 1f5b1 computer mouse/computer mice; 1f4be floppy disk; 1f4fa television; 1f4fd projector
device: 1f4f1 phone; 260e telephone; 1f4fb radio; 1f50b battery; 1f50c plug; 1f4a1 bulb; 1f526 flashlight; 1f4e1 dish antenna; 1f3a4 microphone
household: 1f6aa door; 1fa9e mirror; 1fa9f window; 1f6cf bed; 1f6bd toilet; 1f6c1 bathtub; 1f9f9 broom; 1f9fa basket; 1f9fb paper roll
household: 1faa3 bucket; 1f9fc soap; 1faa5 toothbrush; 1f9fd sponge; 1f9ef extinguisher; 1f6d2 shopping cart; 1f56f candle; 1f3ee lantern
household: 1f944 spoon; 1f9f3 suitcase; 231b hourglass; 1f37d plate
tool: 1f528 hammer; 1fa93 axe; 26cf pickaxe; 1f5e1 dagger; 1f4a3 bomb; 1fa83 boomerang; 1f6e1 shield; 1fa9a saw; 1f527 wrench; 1fa9b screwdriver
tool: 1f529 bolt; 2699 gear; 1f9f0 toolbox; 1f9f2 magnet; 1fa9c ladder; 1f512 padlock; 1f52c microscope; 1f52d telescope; 1f9ea test tube
tool: 1f489 syringe; 1f48a pill; 1fa7a stethoscope; 1f50d magnifier; 1f9ed compass; 1f9f1 brick; 1faa8 rock; 1fab5 log; 1f6a6 traffic light; 1f6e2 barrel
music: 1f3b7 saxophone; 1f3ba trumpet; 1fa97 accordion; 1f3b9 piano; 1f3bb violin; 1fa95 banjo; 1fa87 maraca; 1fa88 flute; 1f3a7 headphone; 1f4e3 megaphone
"""


def plural_of(name):
    """The regular plural of the last word."""
    if name.endswith(("s", "sh", "ch", "x", "z")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def article_of(name):
    if name.startswith(("hour",)):
        return "an"
    if name.startswith(("uni", "ukulele")):
        return "a"
    return "an" if name[0] in "aeiou" else "a"


def entries():
    """(code, name, plural, article, category) of every concept, the 64 of the smallest preset first."""

    def one(text, category):
        code, names = text.split(" ", 1)
        name, _, plural = names.partition("/")
        return code, name, plural or plural_of(name), article_of(name), category

    for item in TINY.replace("\n", ";").split(";"):
        if item.strip():
            text, category = item.strip().rsplit(" ", 1)
            yield one(text, category)
    for line in REST.strip().split("\n"):
        category, items = line.split(":", 1)
        for item in items.split(";"):
            yield one(item.strip(), category.strip())


def strip(code):
    """Code points without the presentation selector, the form all three packages agree on."""
    return "-".join(x for x in code.lower().split("-") if x != "fe0f")


def by_code(folder, ending):
    return {strip(f[: -len(ending)]): os.path.join(folder, f) for f in os.listdir(folder) if f.endswith(ending)}


def sprite(path):
    """One cell: cropped, scaled to INNER, centred, colour levels reduced, invisible pixels all zero."""
    image = Image.open(path).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    image = image.crop(box)
    scale = INNER / max(image.size)
    size = [max(1, round(x * scale)) for x in image.size]
    image = image.convert("RGBa").resize(size, Image.LANCZOS).convert("RGBA")
    cell = Image.new("RGBA", (CELL, CELL), (0, 0, 0, 0))
    cell.paste(image, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    levels = lambda x: min(255, round(x / 255 * 31) * 255 // 31)
    r, g, b, a = cell.split()
    a = a.point(lambda x: 0 if x <= 8 else 255 if x >= 248 else levels(x))
    cell = Image.merge("RGBA", [c.point(levels) for c in (r, g, b)] + [a])
    clear = Image.new("RGBA", (CELL, CELL), (0, 0, 0, 0))
    return Image.composite(cell, clear, a.point(lambda x: 255 if x else 0))


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    fluent = by_code(os.path.join(sys.argv[1], "assets"), ".webp")
    noto = by_code(os.path.join(sys.argv[3], "img", "google", "64"), ".png")
    labels = {strip(e["hexcode"]): e["label"] for e in json.load(open(os.path.join(sys.argv[2], "en", "data.json")))}
    out = sys.argv[4] if len(sys.argv) == 5 else os.path.dirname(os.path.abspath(__file__))
    rows = list(entries())
    for column, what in ((0, "code"), (1, "name"), (2, "plural")):
        values = [r[column] for r in rows]
        twice = sorted({v for v in values if values.count(v) > 1})
        assert not twice, f"{what} used twice: {twice}"
    for code, name, *_ in rows:
        assert code in fluent and code in noto and code in labels, f"{code} {name}: not in all three packages"
    height = -(-len(rows) // COLUMNS) * CELL
    for style, files in (("fluent", fluent), ("noto", noto)):
        sheet = Image.new("RGBA", (COLUMNS * CELL, height), (0, 0, 0, 0))
        for i, row in enumerate(rows):
            sheet.paste(sprite(files[row[0]]), (i % COLUMNS * CELL, i // COLUMNS * CELL))
        path = os.path.join(out, f"{style}.webp")
        sheet.save(path, lossless=True, quality=100, method=6)
        print(f"{path}: {len(rows)} sprites, {os.path.getsize(path)} bytes")
    with open(os.path.join(out, "concepts.tsv"), "w", encoding="utf-8") as f:
        f.write("# code\tname\tplural\tarticle\tcategory; made by make.py\n")
        for row in rows:
            f.write("\t".join(row) + "\n")
    for code, name, *_ in rows if os.environ.get("LIST") else []:
        print(f"{code}\t{name}\t{labels[code]}")


if __name__ == "__main__":
    main()
