//! Times and pictures for people; run with
//! `cargo test --release --lib data::speed -- --ignored --nocapture --test-threads 1`.

use std::sync::Arc;
use std::time::Instant;

use super::sheet::{Tile, write_contact_sheet};
use super::*;
use crate::Result;

fn collator(size: usize, dec: usize) -> Result<Collator> {
    let world = Arc::new(World::new(SceneConfig::default())?);
    let tokenizer = Arc::new(Tokenizer::build(world.concepts(), 0));
    Ok(Collator { world, tokenizer, num_img_token: 16, image_size: size, image_size_dec: dec, max_len: 256 })
}

#[test]
#[ignore = "prints times"]
fn times() -> Result<()> {
    let start = Instant::now();
    let c = collator(64, 64)?;
    println!("World::new with both sheets: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let time = |name: &str, n: u64, f: &mut dyn FnMut(u64) -> f32| {
        let start = Instant::now();
        let sum: f32 = (0..n).map(&mut *f).sum();
        println!("{name}: {:.1} us ({sum:.0})", start.elapsed().as_secs_f64() * 1e6 / n as f64);
    };
    let w = &c.world;
    time("scene", 20000, &mut |i| w.scene(Split::Train, i).objects.len() as f32);
    let scenes: Vec<Scene> = (0..500).map(|i| w.scene(Split::Train, i)).collect();
    for size in [32, 64, 128, 256, 512] {
        let n = 500 * 64 * 64 / (size * size).max(64 * 64);
        time(&format!("render {size}"), n as u64, &mut |i| w.render(&scenes[i as usize], size)[0]);
    }
    time("masks 64", 500, &mut |i| w.masks(&scenes[i as usize], 64)[0][0]);
    for kind in Corruption::ALL {
        let mut data = w.render(&scenes[0], 64);
        time(kind.name(), 100, &mut |i| kind.apply(&mut data, 64, 64, 5, i).map(|_| 0.0).unwrap_or(1.0));
        let mut data = w.render(&scenes[0], 256);
        time("  at 256", 3, &mut |i| kind.apply(&mut data, 256, 256, 5, i).map(|_| 0.0).unwrap_or(1.0));
    }
    for (enc, dec) in [(64, 64), (64, 128)] {
        let source = SceneSource::new(collator(enc, dec)?, Recipe::only(SampleKind::Questions, 32), 0, 0)?;
        time(&format!("batch of 32 pictures, {enc} and {dec}"), 100, &mut |k| {
            source.batch(k).map(|b| b.len as f32).unwrap_or(0.0)
        });
    }
    Ok(())
}

#[test]
#[ignore = "writes pictures to the folder for temporary files"]
fn contact_sheets() -> Result<()> {
    let c = collator(64, 0)?;
    let w = &c.world;
    for split in [Split::Train, Split::Style, Split::HeldOutCombinations] {
        let tile = |i| {
            let scene = w.scene(split, i);
            let text = w.relation_caption(&scene).unwrap_or_else(|| w.caption(&scene));
            Tile::from_f32(&w.render(&scene, 64), 64, text)?.enlarged(2)
        };
        let tiles: Result<Vec<Tile>> = (0..24).map(tile).collect();
        let path = std::env::temp_dir().join(format!("deem-scenes-{split:?}.png"));
        write_contact_sheet(&path, &tiles?, 8, &["scenes", split.name()])?;
        println!("{}", path.display());
    }
    let mut tiles = Vec::new();
    for kind in Corruption::ALL {
        for severity in 1..=5 {
            let mut data = w.render(&w.scene(Split::HeldOutScenes, 4), 64);
            kind.apply(&mut data, 64, 64, severity, 1)?;
            tiles.push(Tile::from_f32(&data, 64, format!("{} {severity}", kind.name()))?);
        }
    }
    let path = std::env::temp_dir().join("deem-corruptions.png");
    write_contact_sheet(&path, &tiles, 15, &[])?;
    println!("{}", path.display());
    Ok(())
}
