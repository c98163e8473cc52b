//! Deterministic scenes: which objects, where, on what ground.
//!
//! A scene is a few numbers (geometry in units of the picture's side), a pure function of (seed, split, index); `render.rs`
//! turns it into pixels at any size, so the encoder's and the decoder's view of a picture come from the same scene.
//!
//! How a scene is drawn: the number of objects is uniform in `1..=max_objects`; the number of kinds is 1 with probability 1/4,
//! otherwise uniform up to the number of objects; the first kind is drawn by popularity, each further kind with probability
//! `companion` from the category of a kind already present and otherwise from all, again by popularity. Popularity and
//! company are therefore far from uniform, which is what makes POPE's popular and adversarial questions harder than
//! its random ones.
//!
//! Held-out combinations: the pair of concepts {i, j} is held out when `hash([tag, i, j]) % holdout_every == 0` with i < j; if no
//! pair of the first `concepts` is, the pair with the smallest hash is. No scene of [`Split::Train`], [`Split::HeldOutScenes`]
//! or [`Split::Style`] contains a held-out pair; every scene of [`Split::HeldOutCombinations`] contains one.

use serde::{Deserialize, Serialize};

use super::concepts::{Concept, catalogue};
use super::grammar::Grammar;
use super::rng::{Rng, hash};
use super::sprites::{Sheet, Style, sheet};
use crate::{Error, Result};

const TAG_PAIR: u64 = 0x7061_6972;
const TAG_POPULARITY: u64 = 0x706f_7075;
/// Two boxes overlap too much when their intersection exceeds this share of the smaller one.
const MAX_OVERLAP: f32 = 0.06;
/// Centres must differ by this much of the picture's side, and 1.5 times more than across, for a relation to hold.
const CLEAR: f32 = 0.2;

/// What scenes are made of. Part of a run's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SceneConfig {
    /// The first so many concepts of the catalogue are used, 2..=441.
    pub concepts: usize,
    /// Most objects in a scene, 1..=9.
    pub max_objects: usize,
    /// Smallest side of an object's cell as a share of the picture's side.
    pub min_scale: f32,
    /// Largest side of an object's cell as a share of the picture's side.
    pub max_scale: f32,
    /// Probability that a further kind comes from the category of one already there.
    pub companion: f32,
    /// One in so many pairs of concepts is held out from training; at least 2.
    pub holdout_every: u64,
    /// Whether objects are mirrored half of the time.
    pub flip: bool,
    /// Whether grounds are varied; otherwise all are one light grey.
    pub grounds: bool,
    /// Cells along each side of a layout, a scene written as a grid of names (see [`World::layout`]).
    pub layout_side: usize,
    /// Seed of all scenes.
    pub seed: u64,
}

impl Default for SceneConfig {
    fn default() -> Self {
        SceneConfig {
            concepts: 64,
            max_objects: 4,
            min_scale: 0.34,
            max_scale: 0.5,
            companion: 0.6,
            holdout_every: 10,
            flip: true,
            grounds: true,
            layout_side: 4,
            seed: 0,
        }
    }
}

/// Where a scene belongs. The indices of different splits never give the same scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For training.
    Train,
    /// The distribution of training, other scenes.
    HeldOutScenes,
    /// Scenes with two concepts that training never shows together.
    HeldOutCombinations,
    /// The distribution of training, drawn with the other art style.
    Style,
}

impl Split {
    /// All splits.
    pub const ALL: [Split; 4] = [Split::Train, Split::HeldOutScenes, Split::HeldOutCombinations, Split::Style];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOutScenes => "unseen scenes",
            Split::HeldOutCombinations => "unseen combinations",
            Split::Style => "other style",
        }
    }
}

/// One object of a scene. Its sprite's cell is a square.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Index into the catalogue.
    pub concept: usize,
    /// Left edge of the cell, in units of the picture's side.
    pub x: f32,
    /// Top edge of the cell, in units of the picture's side.
    pub y: f32,
    /// Side of the cell, in units of the picture's side.
    pub side: f32,
    /// Whether the sprite is mirrored.
    pub flip: bool,
}

/// What lies behind the objects. Colours are RGB in [0, 1], lengths in units of the picture's side, angles in radians.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// One colour.
    Flat([f32; 3]),
    /// From one colour to another along a direction.
    Gradient { from: [f32; 3], to: [f32; 3], angle: f32 },
    /// Bands of two colours.
    Stripes { colours: [[f32; 3]; 2], angle: f32, period: f32 },
    /// Squares of two colours.
    Checker { colours: [[f32; 3]; 2], period: f32 },
    /// Soft noise between two colours: bilinear interpolation of `cells` x `cells` random values.
    Noise { colours: [[f32; 3]; 2], cells: usize, key: u64 },
}

/// A picture before it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Objects, later ones in front.
    pub objects: Vec<Object>,
    /// What lies behind.
    pub ground: Ground,
    /// Art style of the sprites.
    pub style: Style,
}

/// Where one object lies relative to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// To the left of.
    Left,
    /// To the right of.
    Right,
    /// Above.
    Above,
    /// Below.
    Below,
}

impl Relation {
    /// The same fact seen from the other object.
    pub fn inverse(self) -> Relation {
        match self {
            Relation::Left => Relation::Right,
            Relation::Right => Relation::Left,
            Relation::Above => Relation::Below,
            Relation::Below => Relation::Above,
        }
    }
}

/// The scenes of one configuration, with the tables they are drawn from. Shared by reference between threads.
pub struct World {
    config: SceneConfig,
    concepts: &'static [Concept],
    sheets: [&'static Sheet; 2],
    grammar: Grammar,
    popularity: Vec<f32>,
    /// `[N, N]`, true where the pair is held out.
    held_out: Vec<bool>,
    /// The held-out pairs, and how readily each is drawn.
    pairs: Vec<(usize, usize)>,
    pair_weights: Vec<f32>,
    /// `[N, N]`, symmetric; see [`World::cooccurrence`].
    company: Vec<f32>,
}

impl World {
    /// Checks the configuration and builds the tables. [`Error::Config`] names the key that is out of range.
    pub fn new(config: SceneConfig) -> Result<World> {
        let all = catalogue()?;
        let n = config.concepts;
        let fail = |text: String| Err(Error::Config(format!("scenes: {text}")));
        if n < 2 || n > all.len() {
            return fail(format!("concepts = {n}, allowed are 2 to {}", all.len()));
        }
        if !(1..=9).contains(&config.max_objects) {
            return fail(format!("max_objects = {}, allowed are 1 to 9", config.max_objects));
        }
        let (low, high) = (config.min_scale, config.max_scale);
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return fail(format!("min_scale = {low}, max_scale = {high}, expected 0 < min_scale <= max_scale <= 1"));
        }
        if !(0.0..=1.0).contains(&config.companion) {
            return fail(format!("companion = {}, expected a probability", config.companion));
        }
        if !(2..=32).contains(&config.layout_side) {
            return fail(format!("layout_side = {}, allowed are 2 to 32", config.layout_side));
        }
        if config.holdout_every < 2 {
            return fail(format!("holdout_every = {}, expected at least 2", config.holdout_every));
        }
        let concepts = &all[..n];
        let popularity: Vec<f32> = (0..n)
            .map(|i| {
                let u = Rng::for_key(&[TAG_POPULARITY, i as u64]).uniform();
                1.0 + 4.0 * u * u * u
            })
            .collect();
        let held_out = held_out_pairs(n, config.holdout_every);
        let company = company(concepts, &popularity, &held_out, config.companion);
        let sheets = [sheet(Style::Fluent)?, sheet(Style::Noto)?];
        let pairs: Vec<(usize, usize)> =
            (0..n * n).filter(|&k| k / n < k % n && held_out[k]).map(|k| (k / n, k % n)).collect();
        let pair_weights = pairs.iter().map(|&(i, j)| popularity[i] * popularity[j]).collect();
        let grammar = Grammar::new(concepts);
        Ok(World { grammar, config, concepts, sheets, popularity, held_out, pairs, pair_weights, company })
    }

    /// The configuration.
    pub fn config(&self) -> &SceneConfig {
        &self.config
    }

    /// The concepts in use, by index.
    pub fn concepts(&self) -> &'static [Concept] {
        self.concepts
    }

    /// The sentences about these scenes.
    pub fn grammar(&self) -> &Grammar {
        &self.grammar
    }

    /// The sprites of a style.
    pub fn sheet(&self, style: Style) -> &'static Sheet {
        self.sheets[style as usize]
    }

    /// How often a concept is drawn, relative to the others (1 to 5).
    pub fn popularity(&self, concept: usize) -> f32 {
        self.popularity.get(concept).copied().unwrap_or(0.0)
    }

    /// How readily two concepts appear together in training, symmetric, 0 for held-out pairs: the probability that one is drawn
    /// when a second kind joins the other, averaged over the two directions by popularity.
    pub fn cooccurrence(&self, i: usize, j: usize) -> f32 {
        let n = self.concepts.len();
        if i < n && j < n { self.company[i * n + j] } else { 0.0 }
    }

    /// Whether training never shows the two concepts together.
    pub fn is_held_out(&self, i: usize, j: usize) -> bool {
        let n = self.concepts.len();
        i < n && j < n && self.held_out[i * n + j]
    }

    /// Scene `index` of a split.
    pub fn scene(&self, split: Split, index: u64) -> Scene {
        let mut rng = Rng::for_key(&[self.config.seed, split as u64, index]);
        let kinds = self.draw_kinds(split, &mut rng);
        let style = if split == Split::Style { Style::Noto } else { Style::Fluent };
        let ground = self.draw_ground(&mut rng);
        Scene { objects: self.place(&kinds, style, &mut rng), ground, style }
    }

    /// A scene for texts alone: up to `most` objects, one in the middle of each of as many cells of a layout.
    pub fn crowd(&self, most: usize, rng: &mut Rng) -> Scene {
        let side = self.config.layout_side;
        let kinds = self.draw_kinds_of(1 + rng.below(most.clamp(1, side * side)), false, rng);
        let mut cells: Vec<usize> = (0..side * side).collect();
        rng.shuffle(&mut cells);
        let step = 1.0 / side as f32;
        let put = |(&concept, cell): (&usize, usize)| {
            let (x, y) = ((cell % side) as f32 * step, (cell / side) as f32 * step);
            Object { concept, x, y, side: step, flip: false }
        };
        let objects = kinds.iter().zip(cells).map(put).collect();
        Scene { objects, ground: Ground::Flat([0.85; 3]), style: Style::Fluent }
    }

    /// A copy of `scene` with one more object of a kind that is not there yet, put where there is room; `None` when there is none,
    /// or when the scene is full.
    pub fn with_another(&self, scene: &Scene, rng: &mut Rng) -> Option<Scene> {
        if scene.objects.len() >= self.config.max_objects {
            return None;
        }
        let mut kinds: Vec<usize> = scene.objects.iter().map(|o| o.concept).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let concept = self.draw_companion(&kinds, false, rng)?;
        for _ in 0..60 {
            let object = self.draw_object(concept, self.config.min_scale, self.config.min_scale, rng);
            let free = scene
                .objects
                .iter()
                .all(|o| overlap(self.extent(o, scene.style), self.extent(&object, scene.style)) < MAX_OVERLAP);
            if free {
                let mut more = scene.clone();
                more.objects.push(object);
                return Some(more);
            }
        }
        None
    }

    /// The box of an object: left, top, right, bottom in units of the picture's side (its sprite's visible pixels, uncovered).
    pub fn extent(&self, object: &Object, style: Style) -> [f32; 4] {
        let [l, t, r, b] = self.sheet(style).content(object.concept, object.flip);
        let s = object.side;
        [object.x + l * s, object.y + t * s, object.x + r * s, object.y + b * s]
    }

    /// The cell of a layout in which each object of a scene stands: that of its centre or, where another object stands there, the nearest free one.
    pub fn cells(&self, scene: &Scene) -> Vec<usize> {
        let side = self.config.layout_side;
        let mut cells = Vec::with_capacity(scene.objects.len());
        for object in &scene.objects {
            let [l, t, r, b] = self.extent(object, scene.style).map(|x| x * side as f32);
            let (x, y) = ((l + r) / 2.0, (t + b) / 2.0);
            let distance = |cell: usize| {
                let (dx, dy) = ((cell % side) as f32 + 0.5 - x, (cell / side) as f32 + 0.5 - y);
                dx * dx + dy * dy
            };
            let free = (0..side * side).filter(|cell| !cells.contains(cell));
            cells.push(free.min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(side * side));
        }
        cells
    }

    /// The kinds of a scene with their counts, in reading order: by the cell of the layout in which the first object of a kind stands.
    pub fn kinds(&self, scene: &Scene) -> Vec<(usize, usize)> {
        let cells = self.cells(scene);
        let mut kinds: Vec<(usize, usize, usize)> = Vec::new();
        for (object, cell) in scene.objects.iter().zip(cells) {
            match kinds.iter_mut().find(|k| k.0 == object.concept) {
                Some(kind) => {
                    kind.1 += 1;
                    kind.2 = kind.2.min(cell);
                }
                None => kinds.push((object.concept, 1, cell)),
            }
        }
        kinds.sort_by_key(|&(concept, _, cell)| (cell, concept));
        kinds.into_iter().map(|(concept, count, _)| (concept, count)).collect()
    }

    /// How many objects of a concept a scene holds.
    pub fn count(&self, scene: &Scene, concept: usize) -> usize {
        scene.objects.iter().filter(|o| o.concept == concept).count()
    }

    /// Where object `i` lies relative to object `j`, when that is clear: the centres differ by at least 0.2 of the picture's
    /// side along one axis, and 1.5 times more than along the other.
    pub fn relation(&self, scene: &Scene, i: usize, j: usize) -> Option<Relation> {
        let centre = |k: usize| {
            let [l, t, r, b] = self.extent(scene.objects.get(k)?, scene.style);
            Some([(l + r) / 2.0, (t + b) / 2.0])
        };
        let ([xi, yi], [xj, yj]) = (centre(i)?, centre(j)?);
        let (dx, dy) = (xj - xi, yj - yi);
        if dx.abs() >= CLEAR && dx.abs() >= 1.5 * dy.abs() {
            Some(if dx > 0.0 { Relation::Left } else { Relation::Right })
        } else if dy.abs() >= CLEAR && dy.abs() >= 1.5 * dx.abs() {
            Some(if dy > 0.0 { Relation::Above } else { Relation::Below })
        } else {
            None
        }
    }

    /// "a cat and two apples": every kind with its count, in reading order.
    pub fn caption(&self, scene: &Scene) -> String {
        self.grammar.list(&self.kinds(scene))
    }

    /// "a cat to the left of a dog", "an apple above a car": for a scene of two objects of different kinds in a clear relation.
    /// Left comes before right and above before below.
    pub fn relation_caption(&self, scene: &Scene) -> Option<String> {
        let [a, b] = &scene.objects[..] else { return None };
        if a.concept == b.concept {
            return None;
        }
        let relation = self.relation(scene, 0, 1)?;
        Some(match relation {
            Relation::Left | Relation::Above => self.grammar.related(a.concept, relation, b.concept),
            _ => self.grammar.related(b.concept, relation.inverse(), a.concept),
        })
    }

    fn draw_kinds(&self, split: Split, rng: &mut Rng) -> Vec<usize> {
        let held = split == Split::HeldOutCombinations;
        let most = self.config.max_objects.max(if held { 2 } else { 1 });
        let least = if held { 2 } else { 1 };
        let objects = least + rng.below(most + 1 - least);
        self.draw_kinds_of(objects, held, rng)
    }

    /// The kinds of `objects` objects, with a held-out pair among them if `held`.
    fn draw_kinds_of(&self, objects: usize, held: bool, rng: &mut Rng) -> Vec<usize> {
        let single = rng.chance(0.25);
        let wanted = if held || (!single && objects > 1) { 2 + rng.below(objects - 1) } else { 1 };
        let mut kinds = Vec::with_capacity(objects);
        if held {
            let pair = rng.weighted(&self.pair_weights).and_then(|k| self.pairs.get(k));
            kinds.extend(pair.into_iter().flat_map(|&(i, j)| [i, j]));
        } else {
            kinds.extend(rng.weighted(&self.popularity));
        }
        while kinds.len() < wanted {
            match self.draw_companion(&kinds, held, rng) {
                Some(concept) => kinds.push(concept),
                None => break,
            }
        }
        let distinct = kinds.len();
        while kinds.len() < objects && distinct > 0 {
            kinds.push(kinds[rng.below(distinct)]);
        }
        rng.shuffle(&mut kinds);
        kinds
    }

    /// A kind to join those present; `any` allows held-out pairs.
    fn draw_companion(&self, present: &[usize], any: bool, rng: &mut Rng) -> Option<usize> {
        let mate = rng.chance(self.config.companion);
        let host = *rng.pick(present)?;
        let weights = |mate: bool| -> Vec<f32> {
            let allowed = |j: usize| {
                present.iter().all(|&i| i != j && (any || !self.is_held_out(i, j)))
                    && (!mate || self.concepts[j].category == self.concepts[host].category)
            };
            (0..self.concepts.len()).map(|j| if allowed(j) { self.popularity[j] } else { 0.0 }).collect()
        };
        let first = if mate { rng.weighted(&weights(true)) } else { None };
        first.or_else(|| rng.weighted(&weights(false)))
    }

    fn draw_object(&self, concept: usize, low: f32, high: f32, rng: &mut Rng) -> Object {
        let side = rng.range(low, high);
        let (x, y) = (rng.range(0.0, 1.0 - side), rng.range(0.0, 1.0 - side));
        Object { concept, x, y, side, flip: self.config.flip && rng.chance(0.5) }
    }

    fn place(&self, kinds: &[usize], style: Style, rng: &mut Rng) -> Vec<Object> {
        let columns = (1..=3).find(|c| c * c >= kinds.len()).unwrap_or(3);
        let room = 0.97 / columns as f32;
        let high = self.config.max_scale.min(room.max(self.config.min_scale));
        let low = self.config.min_scale.min(high);
        'again: for _ in 0..12 {
            let mut objects: Vec<Object> = Vec::with_capacity(kinds.len());
            for &concept in kinds {
                let free = (0..24).find_map(|_| {
                    let object = self.draw_object(concept, low, high, rng);
                    let extent = self.extent(&object, style);
                    objects.iter().all(|o| overlap(self.extent(o, style), extent) < MAX_OVERLAP).then_some(object)
                });
                match free {
                    Some(object) => objects.push(object),
                    None => continue 'again,
                }
            }
            return objects;
        }
        // No free placement found: one object per cell of a grid, at a random place inside the cell.
        let mut cells: Vec<usize> = (0..columns * columns).collect();
        rng.shuffle(&mut cells);
        let pitch = 1.0 / columns as f32;
        let put = |(&concept, cell): (&usize, usize)| {
            let side = rng.range(low.min(room), high.min(room));
            let (x, y) = ((cell % columns) as f32 * pitch, (cell / columns) as f32 * pitch);
            let slack = pitch - side;
            Object {
                concept,
                x: x + rng.range(0.0, slack),
                y: y + rng.range(0.0, slack),
                side,
                flip: self.config.flip && rng.chance(0.5),
            }
        };
        kinds.iter().zip(cells).map(put).collect()
    }

    fn draw_ground(&self, rng: &mut Rng) -> Ground {
        if !self.config.grounds {
            return Ground::Flat([0.85; 3]);
        }
        let hue = rng.uniform();
        let saturation = rng.range(0.05, 0.45);
        let value = rng.range(0.5, 0.95);
        let first = hsv(hue, saturation, value);
        let near = |rng: &mut Rng, spread: f32| {
            let v = value + rng.range(0.5, 1.0) * if value > 0.7 { -spread } else { spread };
            hsv(hue + rng.range(-0.06, 0.06), saturation * rng.range(0.7, 1.2), v)
        };
        match rng.below(5) {
            0 => Ground::Flat(first),
            1 => Ground::Gradient { from: first, to: near(rng, 0.45), angle: rng.range(0.0, std::f32::consts::TAU) },
            2 => {
                let colours = [first, near(rng, 0.16)];
                let angle = *rng.pick(&[0.0, 0.25, 0.5, 0.75]).unwrap_or(&0.0) * std::f32::consts::PI;
                Ground::Stripes { colours, angle, period: rng.range(0.12, 0.4) }
            }
            3 => Ground::Checker { colours: [first, near(rng, 0.14)], period: rng.range(0.2, 0.6) },
            _ => Ground::Noise { colours: [first, near(rng, 0.3)], cells: 3 + rng.below(6), key: rng.next_u64() },
        }
    }
}

/// Intersection of two boxes as a share of the smaller one.
pub(crate) fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let area = |r: [f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    w * h / area(a).min(area(b)).max(1e-9)
}

/// Hue, saturation, value (hue in turns) to RGB.
fn hsv(h: f32, s: f32, v: f32) -> [f32; 3] {
    let (s, v) = (s.clamp(0.0, 1.0), v.clamp(0.0, 1.0));
    [5.0f32, 3.0, 1.0].map(|n| {
        let k = (n + h.rem_euclid(1.0) * 6.0) % 6.0;
        v - v * s * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

fn held_out_pairs(n: usize, every: u64) -> Vec<bool> {
    let mut out = vec![false; n * n];
    let mut smallest = (u64::MAX, 0, 1);
    let mut any = false;
    for i in 0..n {
        for j in i + 1..n {
            let h = hash(&[TAG_PAIR, i as u64, j as u64]);
            smallest = smallest.min((h, i, j));
            if h.is_multiple_of(every) {
                any = true;
                out[i * n + j] = true;
                out[j * n + i] = true;
            }
        }
    }
    if !any {
        let (_, i, j) = smallest;
        out[i * n + j] = true;
        out[j * n + i] = true;
    }
    out
}

fn company(concepts: &[Concept], popularity: &[f32], held_out: &[bool], companion: f32) -> Vec<f32> {
    let n = concepts.len();
    // directed[i, j]: probability that j is the second kind when i is the first.
    let mut directed = vec![0.0f32; n * n];
    for i in 0..n {
        let weight = |j: usize| if i == j || held_out[i * n + j] { 0.0 } else { popularity[j] };
        let mate = |j: usize| if concepts[i].category == concepts[j].category { weight(j) } else { 0.0 };
        let (all, mates): (f32, f32) = ((0..n).map(weight).sum(), (0..n).map(mate).sum());
        let share = if mates > 0.0 { companion } else { 0.0 };
        for j in 0..n {
            directed[i * n + j] = share * mate(j) / mates.max(1e-9) + (1.0 - share) * weight(j) / all.max(1e-9);
        }
    }
    let mut out = vec![0.0f32; n * n];
    for i in 0..n {
        for j in 0..n {
            let sum = popularity[i] * directed[i * n + j] + popularity[j] * directed[j * n + i];
            out[i * n + j] = sum / (popularity[i] + popularity[j]);
        }
    }
    out
}

#[cfg(test)]
#[path = "scene_tests.rs"]
mod tests;
