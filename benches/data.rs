//! Prints what the built-in data costs: scenes, pictures, corruptions, batches: `cargo bench --bench data`.

use std::sync::Arc;
use std::time::Instant;

use deem::Result;
use deem::data::{
    BatchSource, Collator, Corruption, Recipe, SampleKind, Scene, SceneConfig, SceneSource, Split, Tokenizer, World,
};

/// Mean time of `count` calls; what they return is added up, so that they are made.
fn time(name: &str, count: u64, f: &mut dyn FnMut(u64) -> Result<f32>) -> Result<()> {
    let (start, mut sum) = (Instant::now(), 0.0);
    for i in 0..count {
        sum += f(i)?;
    }
    std::hint::black_box(sum);
    println!("{name:44} {:9.1} us", start.elapsed().as_secs_f64() * 1e6 / count as f64);
    Ok(())
}

fn main() -> Result<()> {
    let config = SceneConfig::default();
    time("world with both sprite sheets", 3, &mut |_| Ok(World::new(config.clone())?.concepts().len() as f32))?;
    let world = Arc::new(World::new(config)?);
    time("scene", 20_000, &mut |i| Ok(world.scene(Split::Train, i).objects.len() as f32))?;
    let scenes: Vec<Scene> = (0..500).map(|i| world.scene(Split::Train, i)).collect();
    for size in [32, 64, 128, 256, 512] {
        let count = 500 * 64 * 64 / (size * size).max(64 * 64);
        time(&format!("picture {size}"), count as u64, &mut |i| Ok(world.render(&scenes[i as usize], size)[0]))?;
    }
    time("masks 64", 500, &mut |i| Ok(world.masks(&scenes[i as usize], 64)[0][0]))?;
    for kind in Corruption::ALL {
        for (size, count) in [(64, 100), (256, 3)] {
            let picture = world.render(&scenes[0], size);
            let name = format!("{} {size}", kind.name());
            time(&name, count, &mut |i| {
                let mut data = picture.clone();
                kind.apply(&mut data, size, size, 5, i)?;
                Ok(data[0])
            })?;
        }
    }
    let tokenizer = Arc::new(Tokenizer::build(world.concepts(), 0));
    for image_size_dec in [64, 128] {
        let (world, tokenizer) = (world.clone(), tokenizer.clone());
        let collator = Collator { world, tokenizer, num_img_token: 16, image_size: 64, image_size_dec, max_len: 256 };
        let source = SceneSource::new(collator, Recipe::only(SampleKind::Questions, 32), 0, 0)?;
        let name = format!("batch of 32 questions, 64 and {image_size_dec} px");
        time(&name, 100, &mut |k| Ok(source.batch(k)?.len as f32))?;
    }
    Ok(())
}
