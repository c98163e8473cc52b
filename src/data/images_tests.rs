use super::*;

/// The test picture whose resized versions were recorded with Pillow 13.
fn picture(w: usize, h: usize) -> Result<Rgb8> {
    let value = |i: usize| {
        let (x, y, c) = (i / 3 % w, i / 3 / w, i % 3);
        (x * x * 7 + y * 13 * (c + 1) + (x * y) % 29 * 9 + c * 50) as u8
    };
    Rgb8::new(w, h, (0..w * h * 3).map(value).collect())
}

#[test]
fn resizing_equals_pillow() -> Result<()> {
    // CRC-32 of the bytes that `Image.resize(..., BICUBIC)` gives, width first and then height: the order of the Pillow versions of
    // the official code. Pillow 13 starts with the height where that is less work (9 x 200 to 31 x 77 is such a case).
    for (w, h, a, b, crc) in [
        (37, 23, 64, 64, 0x667f0f99u32),
        (100, 51, 32, 32, 0x232d43c9),
        (9, 200, 31, 77, 0x195e3299),
        (64, 64, 64, 20, 0x5facbf17),
        (1, 1, 5, 4, 0xf23b8fab),
    ] {
        let out = picture(w, h)?.resize(a, b, Filter::Bicubic)?;
        assert_eq!((out.width, out.height), (a, b));
        assert_eq!(crc32fast::hash(&out.data), crc, "{w}x{h} to {a}x{b}");
    }
    // The official centre crop, done with Pillow.
    for (w, h, size, crc) in [(201, 133, 32, 0xe42d831cu32), (50, 80, 64, 0x6b8bd9ff), (75, 33, 16, 0xead82827)] {
        let out = picture(w, h)?.to_square(size, Fit::CenterCrop)?;
        assert_eq!(crc32fast::hash(&out.data), crc, "{w}x{h} to {size}");
    }
    assert!(picture(4, 4)?.resize(0, 3, Filter::Bicubic).is_err());
    assert_eq!(picture(9, 5)?.to_square(7, Fit::Squash)?.width, 7);
    Ok(())
}

#[test]
fn files_round_trip_and_leave_nothing_behind() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.png");
    let original = picture(31, 17)?;
    original.write_png(&path)?;
    original.write_png(&path)?;
    assert_eq!(Rgb8::open(&path)?, original);
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1);
    assert_eq!(Rgb8::from_f32(31, 17, &original.to_f32())?, original);
    assert_eq!(open_square(&path, 8, Fit::Squash)?.len(), 8 * 8 * 3);
    let nowhere = original.write_png(Path::new("/nowhere/at/all.png"));
    assert!(nowhere.is_err_and(|e| e.to_string().contains("/nowhere/at/all.png")));
    Ok(())
}

#[test]
fn unusable_files_give_one_clear_error() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("p.png");
    let message = |bytes: &[u8]| -> Result<String, Box<dyn std::error::Error>> {
        std::fs::write(&path, bytes)?;
        let text = Rgb8::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("p.png"), "{text}");
        Ok(text)
    };
    assert!(message(b"hello, this is text")?.contains("no PNG, JPEG or WebP"));
    assert!(message(b"")?.contains("no PNG, JPEG or WebP"));
    assert!(message(b"GIF89a\x01\x00\x01\x00\x00\x00\x00")?.contains("no PNG, JPEG or WebP"));
    picture(64, 64)?.write_png(&path)?;
    let whole = std::fs::read(&path)?;
    for cut in [12, 40, whole.len() / 2] {
        assert!(message(&whole[..cut])?.contains("damaged or cut short"), "cut at {cut}");
    }
    // A header that promises a huge picture is refused before anything of that size is allocated.
    let mut wide = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut wide);
    image::ImageEncoder::write_image(encoder, &vec![0u8; 16000], 16000, 1, image::ExtendedColorType::L8)?;
    let text = message(&wide)?;
    assert!(text.contains("16000 x 1") && text.contains("8192") && text.contains("make it smaller"), "{text}");
    assert!(matches!(Rgb8::open(Path::new("/nowhere.png")), Err(Error::Io { .. })));
    assert!(Rgb8::new(2, 2, vec![0; 11]).is_err() && Rgb8::new(0, 2, vec![]).is_err());
    Ok(())
}
