// Faults of single accesses: bounds, alignment, memory that was never written, memory that is gone.
#include "pair.h"

// An index that may equal the length.
template <bool fixed>
__device__ void bound_by_one(int* a, int* b, int n) {
    int i = global_index();
    if (fixed ? i < n : i <= n) {
        b[i] = i;  // fault: bound_by_one
    }
}
PAIR(bound_by_one)

// The last block is not full, and nothing stops its threads.
template <bool fixed>
__device__ void ragged_block(int* a, int* b, int n) {
    int i = global_index();
    if (!fixed || i < n) {
        b[i] = 2 * a[i];  // fault: ragged_block
    }
}
PAIR(ragged_block)

// A stencil reads to the left of the first element.
template <bool fixed>
__device__ void left_of_the_start(int* a, int* b, int n) {
    int i = global_index();
    if (i < n) {
        int left = fixed && i == 0 ? 0 : a[i - 1];  // fault: left_of_the_start
        b[i] = left + a[i];
    }
}
PAIR(left_of_the_start)

// Four elements at a time, and a length that is no multiple of four.
template <bool fixed>
__device__ void vector_past_the_end(int* a, int* b, int n) {
    int i = 4 * global_index();
    if (fixed ? i + 3 < n : i < n) {
        int4 four = *reinterpret_cast<int4*>(a + i);  // fault: vector_past_the_end
        b[i] = four.x + four.y + four.z + four.w;
    }
}
PAIR(vector_past_the_end)

// Rows of an odd length do not all begin at a multiple of 16 bytes.
template <bool fixed>
__device__ void vector_in_an_odd_row(int* a, int* b, int n) {
    int pitch = fixed ? 36 : 35;
    int4 four = *reinterpret_cast<int4*>(a + threadIdx.x * pitch);  // fault: vector_in_an_odd_row
    b[threadIdx.x] = four.x + four.w;
}
PAIR(vector_in_an_odd_row)

// A double after a header of four bytes.
template <bool fixed>
__device__ void double_after_a_header(int* a, int* b, int n) {
    char* bytes = reinterpret_cast<char*>(a) + (fixed ? 8 : 4);
    b[threadIdx.x] = static_cast<int>(reinterpret_cast<double*>(bytes)[threadIdx.x]);  // fault: double_after_a_header
}
PAIR(double_after_a_header)

// A pointer that was never set.
template <bool fixed>
__device__ void null_pointer(int* a, int* b, int n) {
    int* table = fixed ? a : nullptr;
    asm volatile("" : "+l"(table));
    b[threadIdx.x] = table[threadIdx.x];  // fault: null_pointer
}
PAIR(null_pointer)

// An accumulator that nobody set to zero.
template <bool fixed>
__device__ void sum_into_nothing(int* a, int* b, int n) {
    int i = global_index();
    if (fixed) {
        b[i] = 0;
    }
    b[i] += a[i];  // fault: sum_into_nothing
}
PAIR(sum_into_nothing)

// Only even elements are written, all are read.
template <bool fixed>
__device__ void every_other_element(int* a, int* b, int n) {
    int i = threadIdx.x;
    int step = fixed ? 1 : 2;
    for (int at = i * step; at < n; at += 32 * step) {
        b[at] = a[at];
    }
    __syncwarp();
    a[i] = b[n - 1 - i];  // fault: every_other_element
}
PAIR(every_other_element)

// The host frees the buffer before the launch.
template <bool fixed>
__device__ void freed_before_use(int* a, int* b, int n) {
    b[threadIdx.x] = a[threadIdx.x];  // fault: freed_before_use
}
PAIR(freed_before_use)

// The index into a table of the thread's own is not clamped.
template <bool fixed>
__device__ void local_table(int* a, int* b, int n) {
    int table[8];
    for (int i = 0; i < 8; ++i) {
        table[i] = a[i];
    }
    int index = a[threadIdx.x];
    b[threadIdx.x] = table[fixed ? index % 8 : 100 * index];  // fault: local_table
}
PAIR(local_table)

// A byte-wise view of a word that was only half written.
template <bool fixed>
__device__ void half_a_word(int* a, int* b, int n) {
    short* halves = reinterpret_cast<short*>(b) + 2 * threadIdx.x;
    halves[0] = 1;
    if (fixed) {
        halves[1] = 2;
    }
    asm volatile("" ::: "memory");
    a[threadIdx.x] = b[threadIdx.x];  // fault: half_a_word
}
PAIR(half_a_word)

// The read-only path for memory that the same launch writes.
template <bool fixed>
__device__ void stale_read_only_path(int* a, int* b, int n) {
    int i = threadIdx.x;
    a[i] = i + 1;
    asm volatile("" ::: "memory");
    int value;
    if (fixed) {
        value = a[i];
    } else {
        asm volatile("ld.global.nc.s32 %0, [%1];" : "=r"(value) : "l"(a + i));  // fault: stale_read_only_path
    }
    b[i] = value;
}
PAIR(stale_read_only_path)

// An index in bytes where elements were meant.
template <bool fixed>
__device__ void bytes_for_elements(int* a, int* b, int n) {
    int i = global_index();
    if (i < n) {
        b[i] = a[fixed ? i : i * static_cast<int>(sizeof(int))];  // fault: bytes_for_elements
    }
}
PAIR(bytes_for_elements)
