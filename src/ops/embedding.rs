//! Rows by index: table look-up, and the gathers and scatters that put image tokens into a text sequence.
//!
//! Shapes: table [V, C]; ids R; y, dy [R, C]; for the row ops src [R, C] or [K, C], rows K. Every index is checked before anything is
//! written. Scattered additions go through the rows in order, column panel by column panel, so repeated rows add deterministically.

use super::{check, check_shape};
use crate::cuda::embedding::{self as cuda, Scatter};
use crate::device::Context;
use crate::dtype::Element;
use crate::error::Result;
use crate::memory::{Shape, View, ViewMut};

const OP: &str = "embedding";

fn check_ids(ids: &[i32], v: usize) -> Result<()> {
    match ids.iter().enumerate().find(|(_, id)| **id < 0 || **id as usize >= v) {
        None => Ok(()),
        Some((i, id)) => check(OP, false, || format!("id {id} at position {i} is outside of the table of {v} rows")),
    }
}

fn check_rows(rows: &[usize], r: usize) -> Result<()> {
    match rows.iter().enumerate().find(|(_, row)| **row >= r) {
        None => Ok(()),
        Some((i, row)) => check(OP, false, || format!("row {row} at position {i} is outside of the {r} rows")),
    }
}

/// A matrix of two axes.
fn matrix(what: &'static str, shape: Shape) -> Result<(usize, usize)> {
    check(OP, shape.rank() == 2, || format!("`{what}` has shape {shape}, expected two axes"))?;
    Ok((shape[0], shape[1]))
}

/// y [R, C] = table [V, C] at ids (R).
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] naming the id and V if one is out of range.
pub fn gather<E: Element>(cx: &Context, table: View<'_, E>, ids: &[i32], y: ViewMut<'_, E>) -> Result<()> {
    let (v, c) = matrix("table", table.shape())?;
    check_shape(OP, "y", y.shape(), [ids.len(), c])?;
    check_ids(ids, v)?;
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::gather(cx, table, ids.iter().map(|&id| id as usize), y);
    }
    if !cx.is_planning() {
        crate::host::embedding::gather(cx.pool(), table.data(), |i| ids[i] as usize, y.data(), c);
    }
    Ok(())
}

/// d_table [V, C] += dy [R, C] at ids (R).
///
/// # Errors
/// As [`gather`].
pub fn scatter_add<E: Element>(cx: &Context, dy: View<'_, E>, ids: &[i32], d_table: ViewMut<'_, E::Acc>) -> Result<()> {
    let (v, c) = matrix("d_table", d_table.shape())?;
    check_shape(OP, "dy", dy.shape(), [ids.len(), c])?;
    check_ids(ids, v)?;
    if dy.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::scatter(cx, Scatter::Add, dy, ids.iter().map(|&id| id as usize), d_table);
    }
    if !cx.is_planning() {
        let ids = |i: usize| ids[i] as usize;
        crate::host::embedding::scatter_add(cx.pool(), dy.data(), ids, d_table.data(), c);
    }
    Ok(())
}

/// y [K, C] = src [R, C] at rows (K).
///
/// # Errors
/// [`crate::Error::Shape`] if a shape does not fit, [`crate::Error::Domain`] naming the row if one is out of range.
pub fn gather_rows<E: Element>(cx: &Context, src: View<'_, E>, rows: &[usize], y: ViewMut<'_, E>) -> Result<()> {
    let (r, c) = matrix("src", src.shape())?;
    check_shape(OP, "y", y.shape(), [rows.len(), c])?;
    check_rows(rows, r)?;
    if y.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::gather(cx, src, rows.iter().copied(), y);
    }
    if !cx.is_planning() {
        crate::host::embedding::gather(cx.pool(), src.data(), |i| rows[i], y.data(), c);
    }
    Ok(())
}

/// dst [R, C] at rows (K) = src [K, C]; other rows are kept. Of equal rows the last wins.
///
/// # Errors
/// As [`gather_rows`].
pub fn scatter_rows<E: Element>(cx: &Context, src: View<'_, E>, rows: &[usize], dst: ViewMut<'_, E>) -> Result<()> {
    let (r, c) = matrix("dst", dst.shape())?;
    check_shape(OP, "src", src.shape(), [rows.len(), c])?;
    check_rows(rows, r)?;
    if src.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::scatter(cx, Scatter::Replace, src, rows.iter().copied(), dst);
    }
    if !cx.is_planning() {
        crate::host::embedding::scatter(cx.pool(), src.data(), rows, dst.data(), c);
    }
    Ok(())
}

/// dst [R, C] at rows (K) += src [K, C]; rows may repeat.
///
/// # Errors
/// As [`gather_rows`].
pub fn scatter_add_rows<E: Element>(cx: &Context, src: View<'_, E>, rows: &[usize], dst: ViewMut<'_, E>) -> Result<()> {
    let (r, c) = matrix("dst", dst.shape())?;
    check_shape(OP, "src", src.shape(), [rows.len(), c])?;
    check_rows(rows, r)?;
    if src.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::scatter(cx, Scatter::Add, src, rows.iter().copied(), dst);
    }
    if !cx.is_planning() {
        crate::host::embedding::scatter_add_rows(cx.pool(), src.data(), rows, dst.data(), c);
    }
    Ok(())
}

/// dst [R, C] at rows (K) += row, which is `[C]` or [1, C]; rows may repeat.
///
/// # Errors
/// As [`gather_rows`].
pub fn add_row<E: Element>(cx: &Context, row: View<'_, E>, rows: &[usize], dst: ViewMut<'_, E>) -> Result<()> {
    let (r, c) = matrix("dst", dst.shape())?;
    if row.shape() != [1, c] {
        check_shape(OP, "row", row.shape(), [c])?;
    }
    check_rows(rows, r)?;
    if dst.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::scatter(cx, Scatter::AddRow, row, rows.iter().copied(), dst);
    }
    if !cx.is_planning() {
        crate::host::embedding::add_row(cx.pool(), row.data(), rows, dst.data(), c);
    }
    Ok(())
}

/// out `[C]` += sum of src [R, C] at rows (K): the gradient of `row` in [`add_row`].
///
/// # Errors
/// As [`gather_rows`].
pub fn sum_rows_at<E: Element>(cx: &Context, src: View<'_, E>, rows: &[usize], out: ViewMut<'_, E::Acc>) -> Result<()> {
    let (r, c) = matrix("src", src.shape())?;
    check_shape(OP, "out", out.shape(), [c])?;
    check_rows(rows, r)?;
    if src.shape().is_empty() {
        return Ok(());
    }
    if cx.is_cuda() {
        return cuda::sum_rows_at(cx, src, rows, out);
    }
    if !cx.is_planning() {
        crate::host::embedding::sum_rows_at(cx.pool(), src.data(), rows, out.data(), c);
    }
    Ok(())
}
