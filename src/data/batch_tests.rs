use super::*;
use crate::data::documents::{Length, SampleKind};
use crate::data::images::{Fit, Rgb8};
use crate::data::loader::{BatchSource, Recipe, SceneSource};
use crate::data::render::mask_box;
use crate::data::rng::Rng;
use crate::data::scene::{SceneConfig, Split};

fn collator(image_size: usize, image_size_dec: usize) -> Result<Collator> {
    let world = Arc::new(World::new(SceneConfig::default())?);
    let tokenizer = Arc::new(Tokenizer::build(world.concepts(), 0));
    Ok(Collator { world, tokenizer, num_img_token: 3, image_size, image_size_dec, max_len: 64 })
}

fn picture(c: &Collator, index: u64) -> Piece {
    Piece::Image(c.world.scene(Split::Train, index).into())
}

/// The worked example of the specification, section 1.7, with three placeholders.
#[test]
fn two_packed_documents_by_hand() -> Result<()> {
    let c = collator(16, 32)?;
    let t = &c.tokenizer;
    let s = *t.special();
    let first = Sample::document(vec![Piece::text("a dog"), picture(&c, 0), Piece::text("now")]);
    let second = Sample::document(vec![picture(&c, 1), Piece::text("cat")]);
    let options = CollateOptions { pack: true, dataset: "x".into(), ..CollateOptions::default() };
    let b = c.collate(&[first, second], &options)?;
    let w = |word: &str| t.encode(word)[0];
    let (a, dog, now, cat, i) = (w("a"), w("dog"), w("now"), w("cat"), s.image);
    assert_eq!(b.text_ids, [s.bos, a, dog, s.soi, i, i, i, now, s.eos, s.bos, s.soi, i, i, i, cat, s.eos]);
    assert_eq!((b.rows, b.len, b.num_images(), b.num_tokens()), (1, 16, 2, 16));
    assert_eq!(b.nearest_bos, Some(vec![0, 9]));
    assert_eq!(b.num_image_per_seq, [2]);
    assert_eq!(b.prompt_offset, [1]);
    assert_eq!(b.gt_text_ids, None);
    let x = IGNORE;
    assert_eq!(b.labels(&s), [x, a, dog, s.soi, x, x, x, now, s.eos, x, x, x, x, x, cat, s.eos]);
    // Both views of both pictures, in order.
    let scene = c.world.scene(Split::Train, 1);
    assert_eq!(b.images[16 * 16 * 3..], c.world.render(&scene, 16)[..]);
    assert_eq!(b.images_dec[32 * 32 * 3..], c.world.render(&scene, 32)[..]);
    assert_eq!(b.image_masks, None);
    Ok(())
}

#[test]
fn a_prompt_and_padding_by_hand() -> Result<()> {
    let c = collator(8, 0)?;
    let t = &c.tokenizer;
    let s = *t.special();
    let long =
        Sample { pieces: vec![picture(&c, 0), Piece::text("is there a cat ?"), Piece::text("yes")], prompt_pieces: 2 };
    let short = Sample::document(vec![Piece::text("no")]);
    let b = c.collate(&[long, short], &CollateOptions::default())?;
    let (q, yes, no) = (t.encode("is there a cat ?"), t.encode("yes")[0], t.encode("no")[0]);
    let row = [vec![s.bos, s.soi, s.image, s.image, s.image], q, vec![yes, s.eos]].concat();
    assert_eq!(b.text_ids[..12], row);
    assert_eq!(b.text_ids[12..], [vec![s.bos, no, s.eos], vec![s.pad; 9]].concat());
    assert_eq!(b.attention_mask[12..], [vec![1u8; 3], vec![0; 9]].concat());
    assert_eq!(b.prompt_offset, [10, 1]);
    assert_eq!(b.num_image_per_seq, [1, 0]);
    assert_eq!(b.nearest_bos, None);
    assert!(b.images_dec.is_empty());
    let labels = b.labels(&s);
    assert_eq!(labels[..12], [vec![IGNORE; 10], vec![yes, s.eos]].concat());
    assert_eq!(labels[12..], [vec![IGNORE, no, s.eos], vec![IGNORE; 9]].concat());
    Ok(())
}

#[test]
fn conversations_carry_their_own_labels() -> Result<()> {
    let c = collator(8, 8)?;
    let t = &c.tokenizer;
    let s = *t.special();
    let given = |text: &str| Piece::Given(text.into());
    let pieces =
        vec![picture(&c, 0), given("how many"), Piece::text("one"), Piece::End, given("is there"), Piece::text("no")];
    let b = c.collate(&[Sample { pieces, prompt_pieces: 2 }], &CollateOptions::default())?;
    let x = IGNORE;
    let expected = [x, x, x, x, x, x, x, t.encode("one")[0], s.eos, x, x, t.encode("no")[0], s.eos];
    assert_eq!(b.gt_text_ids.as_deref(), Some(&expected[..]));
    assert_eq!(b.images_dec, b.images);
    // Packed prompts behind the first document are hidden, too.
    let asked = || Sample { pieces: vec![Piece::text("what is"), Piece::text("a cat")], prompt_pieces: 1 };
    let b = c.collate(&[asked(), asked()], &CollateOptions { pack: true, ..CollateOptions::default() })?;
    let one = [vec![x, x, x], t.encode("a cat"), vec![s.eos]].concat();
    assert_eq!(b.labels(&s), [one.clone(), one].concat());
    Ok(())
}

#[test]
fn regions_give_masks_that_show_the_object() -> Result<()> {
    let c = collator(32, 0)?;
    let sample = c.world.sample(SampleKind::Regions, Split::Train, Length { turns: 1, words: 0 }, &mut Rng::new(8));
    let b = c.collate(std::slice::from_ref(&sample), &CollateOptions::default())?;
    let masks = b.image_masks.unwrap_or_default();
    assert_eq!(masks.len(), 2 * 32 * 32);
    assert!(masks[..1024].iter().all(|&m| m == 1.0));
    let Piece::Image(marked) = &sample.pieces[1] else { panic!("second piece is no picture") };
    let (Some(scene), Some(object)) = (marked.scene(), marked.region) else { panic!("no region") };
    let extent = c.world.extent(&scene.objects[object], scene.style);
    let found = mask_box(&masks[1024..], 32).unwrap_or_default();
    assert!((found[0] as f32 / 32.0 - extent[0]).abs() < 0.2 && (found[3] as f32 / 32.0 - extent[3]).abs() < 0.2);
    // Both pictures are the same; only the mask differs.
    assert_eq!(b.images[..32 * 32 * 3], b.images[32 * 32 * 3..]);
    Ok(())
}

#[test]
fn packing_fills_rows_in_order_and_long_documents_are_cut_or_refused() -> Result<()> {
    let mut c = collator(8, 0)?;
    c.max_len = 12;
    let pack = CollateOptions { pack: true, ..CollateOptions::default() };
    let text = |n: usize| Sample::document(vec![Piece::text("cat ".repeat(n))]);
    let b = c.collate(&[text(3), text(5), text(1), text(20), text(2)], &pack)?;
    let row = |i: usize| b.attention_mask[i * b.len..(i + 1) * b.len].iter().filter(|&&m| m == 1).count();
    assert_eq!((b.rows, b.len), (4, 12));
    assert_eq!((0..4).map(row).collect::<Vec<_>>(), [12, 3, 12, 4]);
    assert_eq!(b.text_ids[2 * 12 + 11], c.tokenizer.special().eos);
    let late = Sample::document(vec![Piece::text("cat ".repeat(9)), picture(&c, 0)]);
    let error = c.collate(&[late], &pack).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("15 tokens") && error.contains("at most 12"), "{error}");
    assert!(c.collate(&[], &pack).is_err());
    Ok(())
}

#[test]
fn prompts_are_open() -> Result<()> {
    let c = collator(8, 0)?;
    let b = c.prompts(&[vec![picture(&c, 0), Piece::text("is")], vec![Piece::text("a")]])?;
    assert_eq!(b.len, 6);
    assert!(!b.text_ids.contains(&c.tokenizer.special().eos));
    assert!(b.labels(c.tokenizer.special()).iter().all(|&l| l == IGNORE));
    Ok(())
}

#[test]
fn pictures_from_files_join_scenes() -> Result<()> {
    let c = collator(8, 4)?;
    let pixels = Arc::new(Rgb8::new(20, 10, (0..600).map(|i| i as u8).collect())?);
    let own = Piece::Image(Picture::from_pixels(pixels.clone(), Fit::CenterCrop));
    let b = c.collate(&[Sample::document(vec![own, picture(&c, 0)])], &CollateOptions::default())?;
    assert_eq!(b.images[..192], pixels.to_square(8, Fit::CenterCrop)?.to_f32()[..]);
    assert_eq!(b.images_dec[..48], pixels.to_square(4, Fit::CenterCrop)?.to_f32()[..]);
    assert_eq!(b.images.len(), 2 * 192);
    Ok(())
}

#[test]
fn every_kind_makes_a_consistent_batch() -> Result<()> {
    for pack in [false, true] {
        for kind in SampleKind::ALL {
            let c = collator(8, 4)?;
            let s = *c.tokenizer.special();
            let b = SceneSource::new(c, Recipe { pack, ..Recipe::only(kind, 6) }, 1, 0)?.batch(3)?;
            let soi = b.text_ids.iter().filter(|&&id| id == s.soi).count();
            let placeholders = b.text_ids.iter().filter(|&&id| id == s.image).count();
            assert_eq!((soi, placeholders), (b.num_images(), 3 * b.num_images()), "{kind:?}");
            assert_eq!(b.images.len(), b.num_images() * 8 * 8 * 3);
            assert_eq!(b.images_dec.len(), b.num_images() * 4 * 4 * 3);
            assert_eq!(b.image_masks.is_some(), kind == SampleKind::Regions);
            assert_eq!(b.loss_img_weight.is_none(), kind.imagines(), "{kind:?}");
            assert_eq!(b.loss_txt_weight.is_none(), kind != SampleKind::ImageOnly, "{kind:?}");
            assert!(!b.text_ids.contains(&s.unk), "{kind:?}");
            let labels = b.labels(&s);
            assert_eq!(labels.len(), b.rows * b.len);
            for (&label, &id) in labels.iter().zip(&b.text_ids) {
                assert!(label == IGNORE || (label == id && ![s.pad, s.image, s.bos].contains(&id)), "{kind:?}");
            }
            if let Some(nearest) = &b.nearest_bos {
                let mut at = 0;
                for (row, ids) in b.text_ids.chunks_exact(b.len).enumerate() {
                    for (t, _) in ids.iter().enumerate().filter(|(_, id)| **id == s.soi) {
                        let last = ids[..t].iter().rposition(|&id| id == s.bos);
                        assert_eq!(Some(nearest[at]), last, "{kind:?} row {row}");
                        at += 1;
                    }
                }
                assert_eq!(at, nearest.len());
            }
        }
    }
    Ok(())
}
