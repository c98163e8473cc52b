// Deformable attention: weighted bilinear samples of feature maps, and its multi-image form (MMFS). Formulas and sources: src/ops/deform_attention.rs.
//
// | kernel | a warp (or thread) is | lanes |
// |---|---|---|
// | mmfs_forward, sample_forward | one head of one query | points for softmax and places; then several corners at a time, a pack of channels for each lane |
// | mmfs_points, sample_points | one head of one query | the same, then points again for the slopes |
// | mmfs_scatter, sample_scatter | one head of one query | the same, a channel for each lane |
// | mmfs_tables, mmfs_ignore | a slice of queries | columns: sums in order, slices added in order |
// | locate_* | thread: one head of one query | |
//
// Packs are one element, for any head size, and in the kernels named _pack 16 bytes, for head sizes of whole packs in arrays that begin with one. A warp works out
// the corners of 32 points, a lane each, and leaves them in shared memory, from where the lanes that share a corner read it.
//
// Gradients of the values meet where samples overlap. They are added as 64-bit integers at a scale that no sum can overflow (largest, scale, from_fixed):
// integer addition has no order, so the result does not depend on it either, and it is nearer to the exact sum than one of floats would be.
#include "../ffi/deform_attention.h"
#include "common/numeric.cuh"
#include "common/pointwise.cuh"
#include "common/reduce.cuh"
#include "common/rows.cuh"

// The four corners of a sample: their row of the picture's pixels (-1 outside of the map), and their share (0 there).
struct Corners {
    int row[4];
    float share[4];
    float right, down; // distances from the upper left corner
};

__device__ __forceinline__ Corners corners(const DeemLevels &levels, int l, float x, float y) {
    int height = levels.height[l], width = levels.width[l];
    Corners c;
    // Beyond two pixels outside there is nothing; this keeps the conversions to integers in range.
    x = fminf(fmaxf(x, -2.0f), width + 1.0f);
    y = fminf(fmaxf(y, -2.0f), height + 1.0f);
    float left = floorf(x), upper = floorf(y);
    c.right = x - left;
    c.down = y - upper;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int column = int(left) + (k & 1), line = int(upper) + (k >> 1);
        bool inside = column >= 0 && column < width && line >= 0 && line < height;
        float share = ((k & 1) ? c.right : 1.0f - c.right) * ((k >> 1) ? c.down : 1.0f - c.down);
        c.row[k] = inside ? levels.start[l] + line * width + column : -1;
        c.share[k] = inside ? share : 0.0f;
    }
    return c;
}

// A point: the weight of its sample, the first pixel of its picture, its corners.
struct Placed {
    float weight;
    int64_t first_pixel;
    Corners at;
    static __device__ __forceinline__ Placed none() { return {0.0f, 0, {{-1, -1, -1, -1}, {}, 0.0f, 0.0f}}; }
};

// One head of one query.
struct Unit {
    int64_t index;
    int64_t query; // of all entries
    int entry, t, n;
};

__device__ __forceinline__ Unit unit_of(int64_t index, int queries, int heads) {
    int64_t query = index / heads;
    return {index, query, int(query / queries), int(query % queries), int(index % heads)};
}

// Warps of a block.
constexpr int WARPS = 4;

// The unit of this warp.
__device__ __forceinline__ int64_t warp_index() { return int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }

// ---------------------------------------------------------------- MMFS

// A point of a unit: image, level and point, and the row of the tables; `seen` says whether it is there at all.
struct Point {
    int l, p, relative, picture;
    bool seen;
};

template <typename T>
struct Mmfs {
    const DeemMmfs &x;
    Unit u;
    __device__ __forceinline__ int all() const { return x.images * x.levels.count * x.points; }

    __device__ __forceinline__ Point point(int k) const {
        int per_image = x.levels.count * x.points, image = k / per_image, rest = k % per_image;
        int relative = static_cast<const int *>(x.relative)[u.query * x.images + image];
        int picture = static_cast<const int *>(x.places)[u.entry * x.images + image];
        return {rest / x.points, rest % x.points, relative, picture, relative > 0};
    }
    __device__ __forceinline__ float logit(const Point &k) const {
        int64_t columns = int64_t(x.levels.count) * (x.points + 1), at = k.l * (x.points + 1) + k.p;
        float own = widen(static_cast<const T *>(x.logits)[u.index * columns + at]);
        return own + widen(static_cast<const T *>(x.logit_table)[(int64_t(k.relative) * x.heads + u.n) * columns + at]);
    }
    __device__ __forceinline__ Corners place(const Point &k) const {
        const T *own = static_cast<const T *>(x.offsets) + (u.index * x.points + k.p) * 2;
        const T *table = static_cast<const T *>(x.offset_table) + ((int64_t(k.relative) * x.heads + u.n) * x.points + k.p) * 2;
        const float *reference = static_cast<const float *>(x.reference) + 2 * u.t;
        float ratio = x.levels.ratio[k.l];
        float px = reference[0] * x.levels.width[k.l] + (widen(own[0]) + widen(table[0])) * ratio - 0.5f;
        float py = reference[1] * x.levels.height[k.l] + (widen(own[1]) + widen(table[1])) * ratio - 0.5f;
        return corners(x.levels, k.l, px, py);
    }
    // Largest logit, sum of exponentials, share of the ignore slots: each lane keeps its sum in units of its largest so far.
    __device__ __forceinline__ void softmax(float &largest, float &total, float &ignored) const {
        float slots = float(x.images * x.levels.count), ignore = -logf(slots), most = ignore, sum = 0.0f;
        for (int k = threadIdx.x; k < all(); k += 32) {
            Point point = this->point(k);
            if (!point.seen) continue;
            float own = logit(point);
            if (own > most) {
                sum *= expf(most - own);
                most = own;
            }
            sum += expf(own - most);
        }
        largest = warp_reduce(most, Max());
        ignored = slots * expf(ignore - largest);
        total = warp_reduce(sum * expf(most - largest), Sum()) + ignored;
        ignored /= total;
    }
    // Point k as lanes need it; `none` if it is not there.
    __device__ __forceinline__ Placed placed(int k, float largest, float total) const {
        Point point = this->point(k);
        if (!point.seen) return Placed::none();
        return {expf(logit(point) - largest) / total, int64_t(point.picture) * x.levels.positions, place(point)};
    }
    // Channels of this head in the first pixel of all pictures, and elements from a pixel to the next.
    __device__ __forceinline__ const T *pixels() const { return static_cast<const T *>(x.value) + int64_t(u.n) * x.size; }
    __device__ __forceinline__ int64_t stride() const { return int64_t(x.heads) * x.size; }
};

// How the lanes of a warp share corners: `lanes` of them have one, each a pack of N channels in every `lanes` packs.
template <int N>
struct Team {
    int lanes, corner, channel, step;
    __device__ __forceinline__ Team(int size) {
        int packs = size / N;
        lanes = 1;
        while (lanes < packs && lanes < 32) lanes *= 2;
        corner = threadIdx.x / lanes;
        channel = threadIdx.x % lanes * N;
        step = lanes * N;
    }
    // The sum over the lanes of a corner, and the one over corners; every lane gets it.
    __device__ __forceinline__ float over_channels(float x) const {
        for (int lane = 1; lane < lanes; lane *= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
        return x;
    }
    __device__ __forceinline__ float over_corners(float x) const {
        for (int lane = lanes; lane < 32; lane *= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
        return x;
    }
};

// A corner as the lanes of a warp find it in shared memory: its share of the output, and its pixel, -1 outside of the map.
struct alignas(8) Corner {
    float share;
    int pixel;
};

// The corners of 32 points, four after the other; each warp has its own.
__device__ __forceinline__ Corner *corners_of_warp() {
    __shared__ alignas(16) Corner corners[WARPS][4 * 32];
    return corners[threadIdx.y];
}
// Where corner `c` is: every other four points have their two halves exchanged, so that no two lanes of a store want one bank.
__device__ __forceinline__ int place_of(int c) { return c ^ (c >> 4 & 1) << 1; }

// Leaves the corners of this lane's point in shared memory; all lanes of the warp together.
__device__ __forceinline__ void leave(const Placed &point) {
    __syncwarp();
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
        auto share = [&](int c) { return __float_as_int(point.weight * point.at.share[c]); };
        auto pixel = [&](int c) { return point.at.row[c] < 0 ? -1 : int(point.first_pixel + point.at.row[c]); };
        Corner *to = corners_of_warp() + place_of(4 * threadIdx.x + c);
        *reinterpret_cast<int4 *>(to) = make_int4(share(c), pixel(c), share(c + 1), pixel(c + 1));
    }
    __syncwarp();
}

// f(corner, its number) for the corners of `points` points that were left; all lanes come along, with pixel -1 where there is none.
template <int N, typename F>
__device__ __forceinline__ void each_corner(const Team<N> &team, int points, F f) {
    const Corner *corners = corners_of_warp();
    for (int first = 0; first < 4 * points; first += 32 / team.lanes) {
        int c = first + team.corner;
        f(c < 4 * points ? corners[place_of(c)] : Corner{0.0f, -1}, c);
    }
}

// The weighted samples of one head: out = ignored x token (or 0) + the sum over corners. `placed(k)` gives point k of `all`.
template <int N, typename T, typename P>
__device__ __forceinline__ void sum_of_samples(const T *pixels, int64_t stride, int size, int all, P placed, float ignored, const T *token, T *out) {
    Team<N> team(size);
    for (int begin = 0; begin < size; begin += team.step) {
        int channel = begin + team.channel;
        bool active = channel < size;
        float sum[N] = {};
        for (int base = 0; base < all; base += 32) {
            int k = base + threadIdx.x;
            leave(k < all ? placed(k) : Placed::none());
            each_corner(team, min(32, all - base), [&](const Corner &corner, int) {
                if (!active || corner.share == 0.0f) return;
                auto from = load_pack<T, N>(pixels + corner.pixel * stride + channel);
#pragma unroll
                for (int c = 0; c < N; c++) sum[c] += corner.share * widen(from.x[c]);
            });
        }
#pragma unroll
        for (int c = 0; c < N; c++) sum[c] = team.over_corners(sum[c]);
        if (!active || team.corner != 0) continue;
        Pack<T, N> to;
#pragma unroll
        for (int c = 0; c < N; c++) to.x[c] = narrow<T>(token ? ignored * widen(token[channel + c]) + sum[c] : sum[c]);
        store_pack(out + channel, to);
    }
}

template <int N, typename T>
__device__ __forceinline__ void mmfs_forward(const DeemDeformAttentionMmfsForward &p) {
    const DeemMmfs &x = p.x;
    int64_t index = warp_index();
    if (index >= int64_t(x.batch) * x.queries * x.heads) return;
    Mmfs<T> m{x, unit_of(index, x.queries, x.heads)};
    float largest, total, ignored;
    m.softmax(largest, total, ignored);
    sum_of_samples<N>(
        m.pixels(), m.stride(), x.size, m.all(), [&](int k) { return m.placed(k, largest, total); }, ignored,
        static_cast<const T *>(x.ignore_token) + m.u.n * x.size, static_cast<T *>(p.out) + index * x.size);
}

// What a sample of d_out . value is, and its slopes in x and y.
struct Slopes {
    float sample, dx, dy;
};

// The slopes of this lane's point, of `points` points whose corners were left; all lanes of the warp together.
template <int N, typename T>
__device__ __forceinline__ Slopes slopes(const T *pixels, int64_t stride, const T *d_out, int size, const Placed &point, int points) {
    __shared__ alignas(16) float dots[WARPS][4 * 32];
    Team<N> team(size);
    bool active = team.channel < size;
    Pack<T, N> first = {};
    if (active) first = load_pack<T, N>(d_out + team.channel);
    each_corner(team, points, [&](const Corner &corner, int number) {
        float dot = 0.0f;
        if (active && corner.pixel >= 0) {
            const T *from = pixels + corner.pixel * stride;
            for (int channel = team.channel; channel < size; channel += team.step) {
                auto d = channel == team.channel ? first : load_pack<T, N>(d_out + channel), value = load_pack<T, N>(from + channel);
#pragma unroll
                for (int c = 0; c < N; c++) dot += widen(d.x[c]) * widen(value.x[c]);
            }
        }
        dot = team.over_channels(dot);
        if (team.channel == 0 && number < 4 * points) dots[threadIdx.y][number] = dot;
    });
    __syncwarp();
    float4 dot = reinterpret_cast<const float4 *>(dots[threadIdx.y])[threadIdx.x];
    if (threadIdx.x >= points) return {0.0f, 0.0f, 0.0f};
    const Corners &at = point.at;
    return {at.share[0] * dot.x + at.share[1] * dot.y + at.share[2] * dot.z + at.share[3] * dot.w,
            (1.0f - at.down) * (dot.y - dot.x) + at.down * (dot.w - dot.z),
            (1.0f - at.right) * (dot.z - dot.x) + at.right * (dot.w - dot.y)};
}

template <int N, typename T>
__device__ __forceinline__ void mmfs_points(const DeemDeformAttentionMmfsPoints &p) {
    const DeemMmfs &x = p.x;
    int64_t units = int64_t(x.batch) * x.queries * x.heads, index = warp_index();
    if (index >= units) return;
    Mmfs<T> m{x, unit_of(index, x.queries, x.heads)};
    const T *d_out = static_cast<const T *>(p.d_out) + index * x.size;
    int all = m.all();
    float *of_logit = static_cast<float *>(p.of_point) + index * all;
    float *of_x = of_logit + units * all, *of_y = of_x + units * all;
    float largest, total, ignored;
    m.softmax(largest, total, ignored);
    if (threadIdx.x == 0) {
        float *softmax = static_cast<float *>(p.softmax) + 3 * index;
        softmax[0] = largest;
        softmax[1] = total;
        softmax[2] = ignored;
    }
    // Gradient of each weight, and their mean under the weights: what the softmax takes off.
    float mean = 0.0f;
    const T *token = static_cast<const T *>(x.ignore_token) + m.u.n * x.size;
    for (int c = threadIdx.x; c < x.size; c += 32) mean += ignored * widen(d_out[c]) * widen(token[c]);
    for (int base = 0; base < all; base += 32) {
        int k = base + threadIdx.x;
        Placed point = k < all ? m.placed(k, largest, total) : Placed::none();
        leave(point);
        Slopes of = slopes<N>(m.pixels(), m.stride(), d_out, x.size, point, min(32, all - base));
        if (k >= all) continue;
        float ratio = x.levels.ratio[k / x.points % x.levels.count];
        mean += point.weight * of.sample;
        of_logit[k] = of.sample;
        of_x[k] = of.dx * point.weight * ratio;
        of_y[k] = of.dy * point.weight * ratio;
    }
    mean = warp_reduce(mean, Sum());
    for (int k = threadIdx.x; k < all; k += 32) {
        Point point = m.point(k);
        of_logit[k] = point.seen ? expf(m.logit(point) - largest) / total * (of_logit[k] - mean) : 0.0f;
    }
    __syncwarp();
    // Sums over images, and for offsets over levels, in order.
    int per_image = x.levels.count * x.points, columns = x.levels.count * (x.points + 1);
    for (int c = threadIdx.x; c < columns; c += 32) {
        int l = c / (x.points + 1), point = c % (x.points + 1);
        float sum = 0.0f;
        for (int i = 0; i < x.images && point < x.points; i++) sum += of_logit[i * per_image + l * x.points + point];
        static_cast<T *>(p.d_logits)[index * columns + c] = narrow<T>(sum);
    }
    for (int c = threadIdx.x; c < 2 * x.points; c += 32) {
        const float *from = (c & 1 ? of_y : of_x) + c / 2;
        float sum = 0.0f;
        for (int i = 0; i < x.images * x.levels.count; i++) sum += from[i * x.points];
        static_cast<T *>(p.d_offsets)[index * 2 * x.points + c] = narrow<T>(sum);
    }
}

// Adds share x d_out to a pixel, in fixed point; two's complement makes the sum of unsigned numbers that of signed ones.
__device__ __forceinline__ void add_fixed(void *sums, int64_t at, float x, double scale) {
    atomicAdd(static_cast<unsigned long long *>(sums) + at, static_cast<unsigned long long>(__double2ll_rn(double(x) * scale)));
}

// Adds share x d_out to every corner. `placed(k)` gives point k of `all`.
template <typename T, typename P>
__device__ __forceinline__ void scatter(void *sums, int64_t head, int64_t stride, int size, int all, P placed, const T *d_out, double scale) {
    Team<1> team(size);
    for (int base = 0; base < all; base += 32) {
        int k = base + threadIdx.x;
        leave(k < all ? placed(k) : Placed::none());
        for (int channel = team.channel; channel < size; channel += team.step) {
            float d = widen(d_out[channel]);
            each_corner(team, min(32, all - base), [&](const Corner &corner, int) {
                if (corner.share != 0.0f) add_fixed(sums, corner.pixel * stride + head * size + channel, corner.share * d, scale);
            });
        }
    }
}

template <typename T>
__device__ __forceinline__ void mmfs_scatter(const DeemDeformAttentionMmfsScatter &p) {
    const DeemMmfs &x = p.x;
    int64_t index = warp_index();
    if (index >= int64_t(x.batch) * x.queries * x.heads) return;
    Mmfs<T> m{x, unit_of(index, x.queries, x.heads)};
    const float *softmax = static_cast<const float *>(p.softmax) + 3 * index;
    float largest = softmax[0], total = softmax[1];
    scatter(
        p.sums, m.u.n, m.stride(), x.size, m.all(), [&](int k) { return m.placed(k, largest, total); },
        static_cast<const T *>(p.d_out) + index * x.size, *static_cast<const double *>(p.scale));
}

// A block sums one head over one slice of queries; its threads are the columns of the tables: offsets, then logits.
extern "C" __global__ void __launch_bounds__(256, 1) deform_attention_mmfs_tables(
    const __grid_constant__ DeemDeformAttentionMmfsTables p) {
    const DeemMmfs &x = p.x;
    int n = blockIdx.x, offsets = 2 * x.points, columns = offsets + x.levels.count * (x.points + 1);
    int64_t queries = int64_t(x.batch) * x.queries, all = int64_t(x.images) * x.levels.count * x.points;
    int64_t begin = blockIdx.y * p.queries_per_slice, end = begin + p.queries_per_slice;
    if (end > queries) end = queries;
    const int *relative = static_cast<const int *>(x.relative);
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        float *to = static_cast<float *>(p.partial) + (int64_t(blockIdx.y) * p.rows * x.heads + n) * columns + c;
        for (int row = 0; row < p.rows; row++) to[int64_t(row) * x.heads * columns] = 0.0f;
        int l = (c - offsets) / (x.points + 1), point = c < offsets ? c / 2 : (c - offsets) % (x.points + 1);
        // Gradients of logits, x and y; an offset moves the points of all levels, the last logit of a level nothing.
        const float *from = static_cast<const float *>(p.of_point) + (c < offsets ? 1 + (c & 1) : 0) * queries * x.heads * all;
        int first = c < offsets ? 0 : l, last = c < offsets ? x.levels.count : l + 1;
        if (point == x.points) continue;
        for (int64_t q = begin; q < end; q++) {
            for (int i = 0; i < x.images; i++) {
                int row = relative[q * x.images + i];
                if (row == 0) continue;
                float sum = 0.0f;
                for (int l = first; l < last; l++) {
                    sum += from[(q * x.heads + n) * all + (int64_t(i) * x.levels.count + l) * x.points + point];
                }
                to[int64_t(row) * x.heads * columns] += sum;
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void mmfs_tables_sum(const DeemDeformAttentionMmfsTablesSum &p) {
    int64_t all = p.n * p.columns;
    const float *partial = static_cast<const float *>(p.partial);
    each_index(all, [&](int64_t i) {
        float sum = 0.0f;
        for (int slice = 0; slice < p.slices; slice++) sum += partial[slice * all + i];
        int64_t row = i / p.columns;
        int column = i % p.columns;
        if (column < p.offset_columns) {
            static_cast<T *>(p.d_offset_table)[row * p.offset_columns + column] = narrow<T>(sum);
        } else {
            int logits = p.columns - p.offset_columns;
            static_cast<T *>(p.d_logit_table)[row * logits + column - p.offset_columns] = narrow<T>(sum);
        }
    });
}

template <typename T>
__device__ __forceinline__ void mmfs_ignore(const DeemDeformAttentionMmfsIgnore &p) {
    const T *d_out = static_cast<const T *>(p.d_out);
    const float *softmax = static_cast<const float *>(p.softmax);
    int columns = p.heads * p.size;
    float *const out[1] = {static_cast<float *>(p.partial)};
    slice_sums(p.rows, p.rows_per_slice, columns, out, [&](int64_t row, int column, float(&sums)[1]) {
        sums[0] += softmax[3 * (row * p.heads + column / p.size) + 2] * widen(d_out[row * columns + column]);
    });
}

// ---------------------------------------------------------------- fixed point

template <typename T>
__device__ __forceinline__ void largest(const DeemDeformAttentionLargest &p) {
    // As bits, so that infinities and NaN are the largest.
    unsigned most = 0;
    each_index(p.n, [&](int64_t i) { most = max(most, __float_as_uint(widen(static_cast<const T *>(p.x)[i])) & 0x7fffffffu); });
    __shared__ unsigned of_warp[8];
    most = __reduce_max_sync(0xffffffffu, most);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = most;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < 8; warp++) most = max(most, of_warp[warp]);
        static_cast<unsigned *>(p.largest)[blockIdx.x] = most;
    }
}

// One thread: there are at most 1024 numbers.
extern "C" __global__ void __launch_bounds__(32, 1) deform_attention_scale(const __grid_constant__ DeemDeformAttentionScale p) {
    if (threadIdx.x != 0) return;
    unsigned first = 0, second = 0;
    for (int i = 0; i < p.blocks; i++) first = max(first, static_cast<const unsigned *>(p.first)[i]);
    for (int i = 0; i < p.second_blocks; i++) second = max(second, static_cast<const unsigned *>(p.second)[i]);
    double bound = p.terms * double(__uint_as_float(first)) * (p.second ? double(__uint_as_float(second)) : 1.0);
    bool finite = first < 0x7f800000u && second < 0x7f800000u;
    // 2^62 over the next power of two above the bound; numbers below 2^-700 of it are beyond what floats hold.
    double scale = bound > 0.0 ? ldexp(1.0, min(61 - ilogb(bound), 900)) : 1.0;
    *static_cast<double *>(p.scale) = finite ? scale : __longlong_as_double(0x7ff8000000000000ll);
}

template <typename T>
__device__ __forceinline__ void from_fixed(const DeemDeformAttentionFromFixed &p) {
    double factor = 1.0 / *static_cast<const double *>(p.scale);
    each_index(p.n, [&](int64_t i) {
        static_cast<T *>(p.d_value)[i] = narrow<T>(float(double(static_cast<const long long *>(p.sums)[i]) * factor));
    });
}

// ---------------------------------------------------------------- samples at given places

template <typename T>
struct Sample {
    const DeemSample &x;
    Unit u;
    __device__ __forceinline__ int all() const { return x.levels.count * x.points; }
    __device__ __forceinline__ Corners place(int k) const {
        int l = k / x.points;
        const T *at = static_cast<const T *>(x.location) + (u.index * all() + k) * 2;
        return corners(x.levels, l, widen(at[0]) * x.levels.width[l] - 0.5f, widen(at[1]) * x.levels.height[l] - 0.5f);
    }
    __device__ __forceinline__ Placed placed(int k) const {
        float weight = widen(static_cast<const T *>(x.weight)[u.index * all() + k]);
        return {weight, int64_t(u.entry) * x.levels.positions, place(k)};
    }
    __device__ __forceinline__ const T *pixels() const { return static_cast<const T *>(x.value) + int64_t(u.n) * x.size; }
    __device__ __forceinline__ int64_t stride() const { return int64_t(x.heads) * x.size; }
};

template <int N, typename T>
__device__ __forceinline__ void sample_forward(const DeemDeformAttentionSampleForward &p) {
    const DeemSample &x = p.x;
    int64_t index = warp_index();
    if (index >= int64_t(x.batch) * x.queries * x.heads) return;
    Sample<T> m{x, unit_of(index, x.queries, x.heads)};
    const T *no_token = nullptr;
    sum_of_samples<N>(
        m.pixels(), m.stride(), x.size, m.all(), [&](int k) { return m.placed(k); }, 0.0f, no_token,
        static_cast<T *>(p.out) + index * x.size);
}

template <int N, typename T>
__device__ __forceinline__ void sample_points(const DeemDeformAttentionSamplePoints &p) {
    const DeemSample &x = p.x;
    int64_t index = warp_index();
    if (index >= int64_t(x.batch) * x.queries * x.heads) return;
    Sample<T> m{x, unit_of(index, x.queries, x.heads)};
    const T *d_out = static_cast<const T *>(p.d_out) + index * x.size;
    for (int base = 0; base < m.all(); base += 32) {
        int k = base + threadIdx.x;
        Placed point = k < m.all() ? m.placed(k) : Placed::none();
        leave(point);
        Slopes of = slopes<N>(m.pixels(), m.stride(), d_out, x.size, point, min(32, m.all() - base));
        if (k >= m.all()) continue;
        T *to = static_cast<T *>(p.d_location) + (index * m.all() + k) * 2;
        to[0] = narrow<T>(point.weight * (of.dx * x.levels.width[k / x.points]));
        to[1] = narrow<T>(point.weight * (of.dy * x.levels.height[k / x.points]));
        static_cast<T *>(p.d_weight)[index * m.all() + k] = narrow<T>(of.sample);
    }
}

template <typename T>
__device__ __forceinline__ void sample_scatter(const DeemDeformAttentionSampleScatter &p) {
    const DeemSample &x = p.x;
    int64_t index = warp_index();
    if (index >= int64_t(x.batch) * x.queries * x.heads) return;
    Sample<T> m{x, unit_of(index, x.queries, x.heads)};
    scatter(
        p.sums, m.u.n, m.stride(), x.size, m.all(), [&](int k) { return m.placed(k); },
        static_cast<const T *>(p.d_out) + index * x.size, *static_cast<const double *>(p.scale));
}

template <typename T>
__device__ __forceinline__ void locate_forward(const DeemDeformAttentionLocateForward &p) {
    int all = p.levels.count * p.points;
    each_index(p.units, [&](int64_t unit) {
        const T *offsets = static_cast<const T *>(p.offsets) + unit * all * 2, *logits = static_cast<const T *>(p.logits) + unit * all;
        T *location = static_cast<T *>(p.location) + unit * all * 2, *weight = static_cast<T *>(p.weight) + unit * all;
        const float *reference = static_cast<const float *>(p.reference) + unit / p.heads % p.queries * 2;
        float most = -__builtin_huge_valf(), total = 0.0f;
        for (int k = 0; k < all; k++) most = fmaxf(most, widen(logits[k]));
        for (int k = 0; k < all; k++) total += expf(widen(logits[k]) - most);
        for (int k = 0; k < all; k++) {
            location[2 * k] = narrow<T>(reference[0] + widen(offsets[2 * k]) / p.levels.width[k / p.points]);
            location[2 * k + 1] = narrow<T>(reference[1] + widen(offsets[2 * k + 1]) / p.levels.height[k / p.points]);
            weight[k] = narrow<T>(expf(widen(logits[k]) - most) / total);
        }
    });
}

template <typename T>
__device__ __forceinline__ void locate_backward(const DeemDeformAttentionLocateBackward &p) {
    int all = p.levels.count * p.points;
    each_index(p.units, [&](int64_t unit) {
        const T *weight = static_cast<const T *>(p.weight) + unit * all, *d_weight = static_cast<const T *>(p.d_weight) + unit * all;
        const T *d_location = static_cast<const T *>(p.d_location) + unit * all * 2;
        T *d_offsets = static_cast<T *>(p.d_offsets) + unit * all * 2, *d_logits = static_cast<T *>(p.d_logits) + unit * all;
        float mean = 0.0f;
        for (int k = 0; k < all; k++) mean += widen(weight[k]) * widen(d_weight[k]);
        for (int k = 0; k < all; k++) {
            d_offsets[2 * k] = narrow<T>(widen(d_location[2 * k]) / p.levels.width[k / p.points]);
            d_offsets[2 * k + 1] = narrow<T>(widen(d_location[2 * k + 1]) / p.levels.height[k / p.points]);
            d_logits[k] = narrow<T>(widen(weight[k]) * (widen(d_weight[k]) - mean));
        }
    });
}

// The four kernels of a body that reads packs.
#define DEEM_PACK_KERNELS(NAME, PARAMS, BODY)                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) NAME##_f32(const __grid_constant__ PARAMS p) { BODY<1, float>(p); }                                \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) NAME##_bf16(const __grid_constant__ PARAMS p) { BODY<1, bf16>(p); }                                \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) NAME##_pack_f32(const __grid_constant__ PARAMS p) { BODY<Pack<float>::N, float>(p); }              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) NAME##_pack_bf16(const __grid_constant__ PARAMS p) { BODY<Pack<bf16>::N, bf16>(p); }

DEEM_PACK_KERNELS(deform_attention_mmfs_forward, DeemDeformAttentionMmfsForward, mmfs_forward)
DEEM_PACK_KERNELS(deform_attention_mmfs_points, DeemDeformAttentionMmfsPoints, mmfs_points)
DEEM_KERNELS(deform_attention_mmfs_scatter, DeemDeformAttentionMmfsScatter, mmfs_scatter)
DEEM_KERNELS(deform_attention_mmfs_tables_sum, DeemDeformAttentionMmfsTablesSum, mmfs_tables_sum)
DEEM_KERNELS(deform_attention_mmfs_ignore, DeemDeformAttentionMmfsIgnore, mmfs_ignore)
DEEM_KERNELS(deform_attention_largest, DeemDeformAttentionLargest, largest)
DEEM_KERNELS(deform_attention_from_fixed, DeemDeformAttentionFromFixed, from_fixed)
DEEM_PACK_KERNELS(deform_attention_sample_forward, DeemDeformAttentionSampleForward, sample_forward)
DEEM_PACK_KERNELS(deform_attention_sample_points, DeemDeformAttentionSamplePoints, sample_points)
DEEM_KERNELS(deform_attention_sample_scatter, DeemDeformAttentionSampleScatter, sample_scatter)
DEEM_KERNELS(deform_attention_locate_forward, DeemDeformAttentionLocateForward, locate_forward)
DEEM_KERNELS(deform_attention_locate_backward, DeemDeformAttentionLocateBackward, locate_backward)
