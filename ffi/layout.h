/* Made from params.h by tests/generated.sh write. The layout of every struct, as libclang sees it: a compiler that disagrees stops here. */
#include "params.h"
#include <stddef.h>
#ifndef __cplusplus
#define static_assert _Static_assert
#endif
static_assert(sizeof(struct DeemActivationForward) == 32, "size of DeemActivationForward");
static_assert(offsetof(struct DeemActivationForward, x) == 0, "DeemActivationForward.x");
static_assert(offsetof(struct DeemActivationForward, y) == 8, "DeemActivationForward.y");
static_assert(offsetof(struct DeemActivationForward, n) == 16, "DeemActivationForward.n");
static_assert(offsetof(struct DeemActivationForward, kind) == 24, "DeemActivationForward.kind");
static_assert(offsetof(struct DeemActivationForward, padding) == 28, "DeemActivationForward.padding");
static_assert(sizeof(struct DeemActivationBackward) == 40, "size of DeemActivationBackward");
static_assert(offsetof(struct DeemActivationBackward, x) == 0, "DeemActivationBackward.x");
static_assert(offsetof(struct DeemActivationBackward, dy) == 8, "DeemActivationBackward.dy");
static_assert(offsetof(struct DeemActivationBackward, dx) == 16, "DeemActivationBackward.dx");
static_assert(offsetof(struct DeemActivationBackward, n) == 24, "DeemActivationBackward.n");
static_assert(offsetof(struct DeemActivationBackward, kind) == 32, "DeemActivationBackward.kind");
static_assert(offsetof(struct DeemActivationBackward, padding) == 36, "DeemActivationBackward.padding");
static_assert(sizeof(struct DeemLayernormForward) == 56, "size of DeemLayernormForward");
static_assert(offsetof(struct DeemLayernormForward, x) == 0, "DeemLayernormForward.x");
static_assert(offsetof(struct DeemLayernormForward, weight) == 8, "DeemLayernormForward.weight");
static_assert(offsetof(struct DeemLayernormForward, bias) == 16, "DeemLayernormForward.bias");
static_assert(offsetof(struct DeemLayernormForward, y) == 24, "DeemLayernormForward.y");
static_assert(offsetof(struct DeemLayernormForward, stats) == 32, "DeemLayernormForward.stats");
static_assert(offsetof(struct DeemLayernormForward, rows) == 40, "DeemLayernormForward.rows");
static_assert(offsetof(struct DeemLayernormForward, cols) == 48, "DeemLayernormForward.cols");
static_assert(offsetof(struct DeemLayernormForward, eps) == 52, "DeemLayernormForward.eps");
static_assert(sizeof(struct DeemLayernormBackwardInput) == 56, "size of DeemLayernormBackwardInput");
static_assert(offsetof(struct DeemLayernormBackwardInput, x) == 0, "DeemLayernormBackwardInput.x");
static_assert(offsetof(struct DeemLayernormBackwardInput, weight) == 8, "DeemLayernormBackwardInput.weight");
static_assert(offsetof(struct DeemLayernormBackwardInput, stats) == 16, "DeemLayernormBackwardInput.stats");
static_assert(offsetof(struct DeemLayernormBackwardInput, dy) == 24, "DeemLayernormBackwardInput.dy");
static_assert(offsetof(struct DeemLayernormBackwardInput, dx) == 32, "DeemLayernormBackwardInput.dx");
static_assert(offsetof(struct DeemLayernormBackwardInput, rows) == 40, "DeemLayernormBackwardInput.rows");
static_assert(offsetof(struct DeemLayernormBackwardInput, cols) == 48, "DeemLayernormBackwardInput.cols");
static_assert(offsetof(struct DeemLayernormBackwardInput, padding) == 52, "DeemLayernormBackwardInput.padding");
static_assert(sizeof(struct DeemLayernormBackwardWeight) == 64, "size of DeemLayernormBackwardWeight");
static_assert(offsetof(struct DeemLayernormBackwardWeight, x) == 0, "DeemLayernormBackwardWeight.x");
static_assert(offsetof(struct DeemLayernormBackwardWeight, stats) == 8, "DeemLayernormBackwardWeight.stats");
static_assert(offsetof(struct DeemLayernormBackwardWeight, dy) == 16, "DeemLayernormBackwardWeight.dy");
static_assert(offsetof(struct DeemLayernormBackwardWeight, partial_dw) == 24, "DeemLayernormBackwardWeight.partial_dw");
static_assert(offsetof(struct DeemLayernormBackwardWeight, partial_db) == 32, "DeemLayernormBackwardWeight.partial_db");
static_assert(offsetof(struct DeemLayernormBackwardWeight, rows) == 40, "DeemLayernormBackwardWeight.rows");
static_assert(offsetof(struct DeemLayernormBackwardWeight, rows_per_slice) == 48, "DeemLayernormBackwardWeight.rows_per_slice");
static_assert(offsetof(struct DeemLayernormBackwardWeight, cols) == 56, "DeemLayernormBackwardWeight.cols");
static_assert(offsetof(struct DeemLayernormBackwardWeight, padding) == 60, "DeemLayernormBackwardWeight.padding");
static_assert(sizeof(struct DeemReduceSlices) == 40, "size of DeemReduceSlices");
static_assert(offsetof(struct DeemReduceSlices, partial) == 0, "DeemReduceSlices.partial");
static_assert(offsetof(struct DeemReduceSlices, out) == 8, "DeemReduceSlices.out");
static_assert(offsetof(struct DeemReduceSlices, slices) == 16, "DeemReduceSlices.slices");
static_assert(offsetof(struct DeemReduceSlices, cols) == 24, "DeemReduceSlices.cols");
static_assert(offsetof(struct DeemReduceSlices, add) == 32, "DeemReduceSlices.add");
static_assert(offsetof(struct DeemReduceSlices, padding) == 36, "DeemReduceSlices.padding");
static_assert(sizeof(struct DeemReduceSumRows) == 40, "size of DeemReduceSumRows");
static_assert(offsetof(struct DeemReduceSumRows, x) == 0, "DeemReduceSumRows.x");
static_assert(offsetof(struct DeemReduceSumRows, partial) == 8, "DeemReduceSumRows.partial");
static_assert(offsetof(struct DeemReduceSumRows, rows) == 16, "DeemReduceSumRows.rows");
static_assert(offsetof(struct DeemReduceSumRows, rows_per_slice) == 24, "DeemReduceSumRows.rows_per_slice");
static_assert(offsetof(struct DeemReduceSumRows, cols) == 32, "DeemReduceSumRows.cols");
static_assert(offsetof(struct DeemReduceSumRows, padding) == 36, "DeemReduceSumRows.padding");
