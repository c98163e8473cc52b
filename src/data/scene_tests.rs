use super::*;
use crate::data::render::mask_box;

fn world() -> Result<World> {
    World::new(SceneConfig::default())
}

#[test]
fn scenes_depend_on_nothing_but_their_key() -> Result<()> {
    let (a, b) = (world()?, world()?);
    for index in (0..50).rev() {
        let scene = a.scene(Split::Train, index);
        assert_eq!(scene, b.scene(Split::Train, index));
        assert_ne!(scene, a.scene(Split::HeldOutScenes, index));
        assert_ne!(scene, a.scene(Split::Train, index + 1000));
    }
    let other = World::new(SceneConfig { seed: 1, ..SceneConfig::default() })?;
    assert_ne!(a.scene(Split::Train, 0), other.scene(Split::Train, 0));
    assert_eq!(a.render(&a.scene(Split::Train, 3), 64), b.render(&b.scene(Split::Train, 3), 64));
    Ok(())
}

#[test]
fn held_out_pairs_stay_out_of_training() -> Result<()> {
    let world = world()?;
    let has_pair = |scene: &Scene| {
        let k = &scene.objects;
        (0..k.len()).any(|i| (0..i).any(|j| world.is_held_out(k[i].concept, k[j].concept)))
    };
    for index in 0..3000 {
        assert!(has_pair(&world.scene(Split::HeldOutCombinations, index)));
        for split in [Split::Train, Split::HeldOutScenes, Split::Style] {
            assert!(!has_pair(&world.scene(split, index)), "{split:?} {index}");
        }
    }
    let pairs = (0..64).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|&(i, j)| world.is_held_out(i, j)).count();
    assert!((120..280).contains(&pairs), "{pairs} of 2016");
    // Even the smallest world has one held-out pair.
    let two = World::new(SceneConfig { concepts: 2, ..SceneConfig::default() })?;
    assert!(two.is_held_out(0, 1));
    assert_eq!(two.kinds(&two.scene(Split::HeldOutCombinations, 5)).len(), 2);
    Ok(())
}

#[test]
fn objects_are_inside_apart_and_of_the_promised_size() -> Result<()> {
    let world = world()?;
    let mut counts = [0; 5];
    for index in 0..2000 {
        let scene = world.scene(Split::Train, index);
        counts[scene.objects.len()] += 1;
        for (i, a) in scene.objects.iter().enumerate() {
            assert!(a.x >= 0.0 && a.y >= 0.0 && a.x + a.side <= 1.0001 && a.y + a.side <= 1.0001, "{a:?}");
            assert!((0.33..=0.501).contains(&a.side), "{a:?}");
            for b in &scene.objects[..i] {
                assert!(overlap(world.extent(a, scene.style), world.extent(b, scene.style)) <= MAX_OVERLAP);
            }
        }
    }
    assert!(counts[1..].iter().all(|&c| c > 400), "{counts:?}");
    let nine = World::new(SceneConfig { max_objects: 9, ..SceneConfig::default() })?;
    assert!((0..200).any(|i| nine.scene(Split::Train, i).objects.len() == 9));
    Ok(())
}

#[test]
fn boxes_and_masks_agree_with_the_pixels() -> Result<()> {
    let world = world()?;
    let mut shrink = Vec::new();
    for (split, size) in [(Split::Train, 64), (Split::Style, 64), (Split::Train, 97)] {
        for index in 0..60 {
            let scene = world.scene(split, index);
            let full = world.render(&scene, size);
            let masks = world.masks(&scene, size);
            for (i, mask) in masks.iter().enumerate() {
                // Without object i the picture must change inside its mask and nowhere far from its box.
                let mut less = scene.clone();
                less.objects.remove(i);
                let without = world.render(&less, size);
                let changed = |p: usize| (0..3).map(|c| (full[p * 3 + c] - without[p * 3 + c]).abs()).sum::<f32>();
                let extent = world.extent(&scene.objects[i], scene.style).map(|v| v * size as f32);
                for p in 0..size * size {
                    let (x, y) = ((p % size) as f32 + 0.5, (p / size) as f32 + 0.5);
                    let outside = (extent[0] - x).max(x - extent[2]).max(extent[1] - y).max(y - extent[3]);
                    assert!(outside < 2.7 || changed(p) == 0.0, "{split:?} {index} object {i} pixel {p}: {outside}");
                }
                let inside = (0..size * size).filter(|&p| mask[p] > 0.0);
                let (mut total, mut moved) = (0, 0);
                inside.for_each(|p| {
                    total += 1;
                    moved += usize::from(changed(p) > 0.02);
                });
                // A few pixels may have the ground's own colour.
                assert!(total > 20 && moved * 10 >= total * 8, "{split:?} {index} object {i}: {moved} of {total}");
                let alone = Scene { objects: vec![scene.objects[i].clone()], ..scene.clone() };
                let found = mask_box(&world.mask(&alone, 0, size), size).unwrap_or_default();
                // Never larger than the box, and smaller only where thin parts (antennae, strings) cover no half pixel.
                for k in 0..4 {
                    let inward = (found[k] as f32 - extent[k]) * if k < 2 { 1.0 } else { -1.0 };
                    assert!((-1.1..6.0).contains(&inward), "{split:?} {index} object {i}: {found:?} {extent:?}");
                    shrink.push(inward);
                }
            }
            // Masks are disjoint.
            assert!((0..size * size).all(|p| masks.iter().filter(|m| m[p] > 0.0).count() <= 1));
            assert!(full.iter().all(|v| (0.0..=1.0).contains(v)));
        }
    }
    assert!(shrink.iter().sum::<f32>() / (shrink.len() as f32) < 0.5, "boxes are too large");
    assert_eq!(mask_box(&[0.0; 16], 4), None);
    Ok(())
}

#[test]
fn two_views_show_the_same_scene() -> Result<()> {
    let world = world()?;
    for index in 0..40 {
        let scene = world.scene(Split::Train, index);
        let (small, large) = (world.render(&scene, 32), world.render(&scene, 128));
        let mut error = 0.0;
        for y in 0..32 {
            for x in 0..32 {
                for c in 0..3 {
                    let mut mean = 0.0;
                    for j in 0..16 {
                        mean += large[((y * 4 + j / 4) * 128 + x * 4 + j % 4) * 3 + c] / 16.0;
                    }
                    error += (mean - small[(y * 32 + x) * 3 + c]).abs();
                }
            }
        }
        assert!(error / (32.0 * 32.0 * 3.0) < 0.02, "scene {index}: mean difference {}", error / 3072.0);
    }
    Ok(())
}

#[test]
fn captions_are_exact_and_parse_back() -> Result<()> {
    let world = World::new(SceneConfig { concepts: 441, ..SceneConfig::default() })?;
    let mut relations = 0;
    for index in 0..4000 {
        let scene = world.scene(Split::Train, index);
        let truth = world.kinds(&scene).into_iter().collect();
        assert_eq!(world.grammar().parse(&world.caption(&scene)), truth, "{}", world.caption(&scene));
        if let Some(text) = world.relation_caption(&scene) {
            relations += 1;
            assert_eq!(world.grammar().parse(&text), truth, "{text}");
            assert!(!text.contains("right") && !text.contains("below"), "{text} is not canonical");
        }
    }
    assert!(relations > 300, "{relations}");
    Ok(())
}

#[test]
fn relations_by_hand() -> Result<()> {
    let world = world()?;
    let object = |concept, x, y| Object { concept, x, y, side: 0.35, flip: false };
    let scene = |a, b| Scene { objects: vec![a, b], ground: Ground::Flat([0.5; 3]), style: Style::Fluent };
    let beside = scene(object(1, 0.6, 0.3), object(0, 0.05, 0.3));
    assert_eq!(world.relation_caption(&beside).as_deref(), Some("a cat to the left of a dog"));
    assert_eq!(world.relation(&beside, 0, 1), Some(Relation::Right));
    assert_eq!(world.caption(&beside), "a cat and a dog");
    let over = scene(object(22, 0.3, 0.0), object(0, 0.3, 0.6));
    assert_eq!(world.relation_caption(&over).as_deref(), Some("an apple above a cat"));
    let diagonal = scene(object(0, 0.0, 0.0), object(1, 0.6, 0.6));
    assert_eq!(world.relation_caption(&diagonal), None);
    assert_eq!(world.relation_caption(&scene(object(0, 0.0, 0.3), object(0, 0.6, 0.3))), None);
    assert_eq!(world.relation(&diagonal, 0, 9), None);
    Ok(())
}

#[test]
fn company_predicts_training_and_is_not_uniform() -> Result<()> {
    let world = world()?;
    let mut seen = vec![0.0f64; 64 * 64];
    for index in 0..20000 {
        let kinds = world.kinds(&world.scene(Split::Train, index));
        for &(i, _) in &kinds {
            for &(j, _) in kinds.iter().filter(|k| k.0 != i) {
                seen[i * 64 + j] += 1.0;
            }
        }
    }
    // Expected share of a pair: popularity of either being first times the chance of the other joining.
    let expected: Vec<f64> = (0..64 * 64)
        .map(|k| (world.cooccurrence(k / 64, k % 64) * (world.popularity(k / 64) + world.popularity(k % 64))) as f64)
        .collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ms, me) = (mean(&seen), mean(&expected));
    let dot = |a: &[f64], ma: f64, b: &[f64], mb: f64| a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum::<f64>();
    let r = dot(&seen, ms, &expected, me) / (dot(&seen, ms, &seen, ms) * dot(&expected, me, &expected, me)).sqrt();
    assert!(r > 0.95, "correlation {r}");
    let highest = seen.iter().copied().fold(0.0, f64::max);
    assert!(highest > 10.0 * ms, "{highest} against {ms}");
    Ok(())
}

#[test]
fn another_object_joins_and_keeps_the_rest() -> Result<()> {
    let world = world()?;
    let (mut rng, mut grown) = (Rng::new(3), 0);
    for index in 0..200 {
        let scene = world.scene(Split::Train, index);
        if let Some(more) = world.with_another(&scene, &mut rng) {
            grown += 1;
            assert_eq!(more.objects[..scene.objects.len()], scene.objects[..]);
            assert_eq!(world.kinds(&more).len(), world.kinds(&scene).len() + 1);
        }
    }
    assert!(grown > 80, "{grown}");
    Ok(())
}

#[test]
fn bad_configurations_name_the_key() {
    let bad = [
        ("concepts", SceneConfig { concepts: 1, ..SceneConfig::default() }),
        ("concepts", SceneConfig { concepts: 5000, ..SceneConfig::default() }),
        ("max_objects", SceneConfig { max_objects: 0, ..SceneConfig::default() }),
        ("min_scale", SceneConfig { min_scale: f32::NAN, ..SceneConfig::default() }),
        ("companion", SceneConfig { companion: 2.0, ..SceneConfig::default() }),
        ("holdout_every", SceneConfig { holdout_every: 0, ..SceneConfig::default() }),
    ];
    for (key, config) in bad {
        match World::new(config) {
            Err(Error::Config(text)) => assert!(text.contains(key), "{text}"),
            other => panic!("{key}: {:?}", other.map(|_| ())),
        }
    }
}

#[test]
fn configuration_survives_toml() -> Result<(), Box<dyn std::error::Error>> {
    let config = SceneConfig { seed: 9, concepts: 80, ..SceneConfig::default() };
    assert_eq!(toml::from_str::<SceneConfig>(&toml::to_string(&config)?)?, config);
    assert_eq!(toml::from_str::<SceneConfig>("")?, SceneConfig::default());
    assert!(toml::from_str::<SceneConfig>("concept = 3").is_err());
    Ok(())
}
