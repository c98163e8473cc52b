//! A trained model through the C interface answers and draws as the program does.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use deem::data::Rgb8;
use deem::ffi::*;

use crate::program::{succeed, train};

unsafe extern "C" fn count(user: *mut c_void, done: i32, steps: i32) -> i32 {
    // SAFETY: the test's own counter.
    unsafe { *user.cast::<i32>() += 1 };
    assert_eq!(steps, 3);
    assert!((1..=3).contains(&done));
    0
}

unsafe extern "C" fn stop(_: *mut c_void, done: i32, _: i32) -> i32 {
    i32::from(done >= 1)
}

#[test]
fn a_model_asks_and_draws_as_the_program_does() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path());
    let picture = Rgb8::new(40, 30, (0..40 * 30 * 3).map(|i| (i * 7 % 251) as u8).collect()).unwrap();
    picture.write_png(&folder.path().join("in.png")).unwrap();
    let said = succeed(folder.path(), &["ask", "--model", "run", "in.png", "how many are there?"]).out;
    let drawing = ["imagine", "--model", "run", "--steps", "3", "--seed", "5", "--out", "out.png", "a cat"];
    succeed(folder.path(), &drawing);
    let drawn = Rgb8::open(&folder.path().join("out.png")).unwrap();

    let path = CString::new(folder.path().join("run").to_str().unwrap()).unwrap();
    let (mut context, mut model, mut answer) = (null_mut(), null_mut(), null_mut::<c_char>());
    // SAFETY: text that ends with a zero byte, places for pointers, buffers of the sizes that are said.
    unsafe {
        let ok = |status: i32| assert_eq!(status, 0, "{:?}", CStr::from_ptr(deem_error_message()));
        ok(deem_context_create(null(), 1, &mut context));
        ok(deem_model_load(context, path.as_ptr(), 0, &mut model));
        // The model holds on to what it needs of the context.
        deem_context_destroy(context);
        let question = c"How many are there".as_ptr();
        ok(deem_model_ask(model, picture.data.as_ptr(), 40, 30, question, null(), &mut answer));
        assert_eq!(CStr::from_ptr(answer).to_str().unwrap(), said.trim());
        deem_string_destroy(answer);

        let side = deem_model_drawn_side(model);
        assert_eq!(side as usize, drawn.width);
        let mut rgb = vec![0u8; (side * side * 3) as usize];
        let (bytes, mut steps) = (rgb.len() as i64, 0i32);
        let mut options = deem_image_options {
            steps: 3,
            kind: 0,
            guidance: 0.0,
            seed: 5,
            progress: Some(count),
            user: (&raw mut steps).cast(),
        };
        ok(deem_model_imagine(model, c"A cat".as_ptr(), &options, rgb.as_mut_ptr(), bytes));
        assert!(rgb == drawn.data, "the program's picture, byte for byte");
        assert_eq!(steps, 3);

        options.progress = Some(stop);
        assert_eq!(deem_model_imagine(model, c"A cat".as_ptr(), &options, rgb.as_mut_ptr(), bytes), 8);
        assert_eq!(deem_model_imagine(model, c"A cat".as_ptr(), &options, rgb.as_mut_ptr(), bytes - 1), 1);
        let message = CStr::from_ptr(deem_error_message()).to_str().unwrap().to_string();
        assert!(message.contains(&format!("{} bytes, expected {bytes} bytes", bytes - 1)), "{message}");
        assert_eq!(deem_model_imagine(model, null(), &options, rgb.as_mut_ptr(), bytes), 1);
        assert_eq!(deem_model_ask(model, null(), 40, 30, question, null(), &mut answer), 1);
        assert_eq!(deem_model_ask(model, rgb.as_ptr(), 0, 30, question, null(), &mut answer), 1);
        assert!(answer.is_null() && rgb == drawn.data);
        deem_model_destroy(model);
    }
}
