//! Trained models of the C interface.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use half::bf16;

use super::denoise::sampler_kind;
use super::{call, count, deem_context, place, required, text, usual, wrong};
use crate::data::{Fit, Picture, Rgb8};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::infer::image::ImageOptions;
use crate::infer::jobs::{DESCRIBE, plain, plain_question};
use crate::infer::session::Session;
use crate::infer::text::{Decoding, TextOptions};

/// A session and the context that it borrows.
struct Owned<E: Element> {
    /// Before the context: fields are dropped in order.
    session: Session<'static, E>,
    /// Keeps the address that the session holds.
    _context: Arc<Context>,
}

impl<E: Element> Owned<E> {
    fn open(context: &Arc<Context>, folder: &Path) -> Result<Self> {
        let context = context.clone();
        // SAFETY: the context lies on the heap, where the Arc that is kept beside the session holds it for as long as the session lives; the
        // session is private, and nothing that it gives out borrows from the context.
        let borrowed: &'static Context = unsafe { &*Arc::as_ptr(&context) };
        Ok(Owned { session: Session::open(borrowed, folder)?, _context: context })
    }

    fn ask(&self, picture: Rgb8, question: &str, options: &TextOptions) -> Result<String> {
        let square = picture.to_square(self.session.model.config.tokenizer.image_size, Fit::Squash)?;
        let picture = Picture::from_pixels(Arc::new(square), Fit::Squash);
        let answers = self.session.answer(&[Session::<E>::question(picture, question)], options)?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }
}

/// See `ffi/deem.h`.
pub struct deem_model(Stored);

/// A model in the storage type that was asked for.
enum Stored {
    F32(Owned<f32>),
    Bf16(Owned<bf16>),
}

macro_rules! with {
    ($model:expr, $owned:ident => $body:expr) => {
        match &$model.0 {
            Stored::F32($owned) => $body,
            Stored::Bf16($owned) => $body,
        }
    };
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_model_load(
    context: *const deem_context,
    folder: *const c_char,
    dtype: i32,
    model: *mut *mut deem_model,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let (place, cx, folder) =
            unsafe { (place("model", model)?, required("context", context)?, text("folder", folder)?) };
        let folder = Path::new(folder.ok_or_else(|| wrong("`folder` is NULL".into()))?);
        let stored = match dtype {
            0 => Stored::F32(Owned::open(&cx.0, folder)?),
            1 => Stored::Bf16(Owned::open(&cx.0, folder)?),
            other => return Err(wrong(format!("`dtype` is {other}, expected 0 (f32) or 1 (bf16)"))),
        };
        *place = Box::into_raw(Box::new(deem_model(stored)));
        Ok(())
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `model` is NULL or came from [`deem_model_load`], and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_model_destroy(model: *mut deem_model) {
    if !model.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(model) });
    }
}

fn drawn_side(model: &deem_model) -> usize {
    with!(model, owned => owned.session.model.config.diffusion.as_ref().map_or(0, |d| d.image_size))
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `model` is NULL or came from [`deem_model_load`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_model_drawn_side(model: *const deem_model) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(0, |model| drawn_side(model) as i32)
}

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct deem_text_options {
    pub beams: i32,
    pub max_new_tokens: i32,
    pub temperature: f64,
    pub top_p: f64,
    pub seed: u64,
}

impl deem_text_options {
    fn options(&self) -> Result<TextOptions> {
        let beams = count("beams", self.beams.into(), 0)?;
        let max_new_tokens =
            if self.max_new_tokens == 0 { 48 } else { count("max_new_tokens", self.max_new_tokens.into(), 1)? };
        let (temperature, top_p, seed) = (self.temperature, usual(self.top_p, 1.0), self.seed);
        let decoding = match (beams > 1, temperature != 0.0) {
            (false, false) => Decoding::Greedy,
            (true, false) => Decoding::Beams { beams },
            (false, true) => Decoding::Sample { temperature, top_p, top_k: 0, seed },
            (true, true) => {
                let text = format!("`beams` is {beams} and `temperature` {temperature}, which exclude each other");
                return Err(wrong(text));
            }
        };
        Ok(TextOptions { decoding, ..TextOptions::greedy(max_new_tokens) })
    }
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_model_ask(
    model: *const deem_model,
    rgb: *const u8,
    width: i32,
    height: i32,
    question: *const c_char,
    options: *const deem_text_options,
    answer: *mut *mut c_char,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let (place, model) = unsafe { (place("answer", answer)?, required("model", model)?) };
        // SAFETY: the caller's promise.
        let question = unsafe { text("question", question)? };
        if rgb.is_null() {
            return Err(wrong("`rgb` is NULL".into()));
        }
        let (width, height) = (count("width", width.into(), 1)?, count("height", height.into(), 1)?);
        // SAFETY: the caller's promise; two 31-bit sizes and 3 bytes fit the address space.
        let pixels = unsafe { std::slice::from_raw_parts(rgb, width * height * 3) };
        let picture = Rgb8::new(width, height, pixels.to_vec())?;
        // SAFETY: the caller's promise.
        let options = unsafe { options.as_ref() }.copied().unwrap_or_default().options()?;
        let question = plain_question(question.unwrap_or(DESCRIBE));
        let found = with!(model, owned => owned.ask(picture, &question, &options))?;
        let found = CString::new(found).map_err(|_| wrong("the answer has a zero byte inside".into()))?;
        *place = found.into_raw();
        Ok(())
    })
}

/// See `ffi/deem.h`.
///
/// # Safety
/// `text` is NULL or came from this library, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_string_destroy(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// See `ffi/deem.h`.
pub type deem_progress = Option<unsafe extern "C" fn(user: *mut c_void, done: i32, steps: i32) -> i32>;

/// See `ffi/deem.h`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct deem_image_options {
    pub steps: i32,
    pub kind: i32,
    pub guidance: f64,
    pub seed: u64,
    pub progress: deem_progress,
    pub user: *mut c_void,
}

/// See `ffi/deem.h`.
///
/// # Safety
/// Pointers are NULL or point to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deem_model_imagine(
    model: *const deem_model,
    words: *const c_char,
    options: *const deem_image_options,
    rgb: *mut u8,
    bytes: i64,
) -> i32 {
    call(|| {
        // SAFETY: the caller's promise.
        let (model, words) = unsafe { (required("model", model)?, text("words", words)?) };
        let words = words.ok_or_else(|| wrong("`words` is NULL".into()))?;
        let side = drawn_side(model);
        if side == 0 {
            return Err(Error::Config("this model has no diffusion part: it cannot draw".into()));
        }
        let expected = side * side * 3;
        if rgb.is_null() || bytes != expected as i64 {
            let found = if rgb.is_null() { "NULL".into() } else { format!("{bytes} bytes") };
            return Err(wrong(format!("`rgb` is {found}, expected {expected} bytes for [{side}, {side}, 3]")));
        }
        let zeros = deem_image_options {
            steps: 0,
            kind: 0,
            guidance: 0.0,
            seed: 0,
            progress: None,
            user: std::ptr::null_mut(),
        };
        // SAFETY: the caller's promise.
        let o = unsafe { options.as_ref() }.copied().unwrap_or(zeros);
        let options = ImageOptions {
            steps: if o.steps == 0 { 20 } else { count("steps", o.steps.into(), 1)? },
            guidance: usual(o.guidance, 2.0),
            sampler: sampler_kind(o.kind)?,
            seed: o.seed,
            ..ImageOptions::default()
        };
        let mut progress = |done: usize, steps: usize| match o.progress {
            // SAFETY: the caller's own function with the caller's own pointer.
            Some(told) if unsafe { told(o.user, done as i32, steps as i32) } != 0 => Err(Error::Interrupted(format!(
                "the progress function stopped the picture after {done} of {steps} steps"
            ))),
            _ => Ok(()),
        };
        let images = with!(model, owned => owned.session.imagine(&[plain(words)], &[], &options, &mut progress))?;
        let picture = Rgb8::from_f32(side, side, images.picture(0))?;
        // SAFETY: the caller's promise: so many bytes, which nobody else uses.
        unsafe { std::ptr::copy_nonoverlapping(picture.data.as_ptr(), rgb, expected) };
        Ok(())
    })
}
