// Cooperative groups: tiles, coalesced groups, and their collectives.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;

extern "C" __global__ void tile_sums(const int *x, int *y, int n) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    int i = block.group_index().x * block.size() + block.thread_rank();
    int sum = cg::reduce(tile, i < n ? x[i] : 0, cg::plus<int>());
    if (tile.thread_rank() == 0 && i < n) y[i / 8] = sum;
}

// Each warp takes as many places as it has positive numbers, with one atomic.
extern "C" __global__ void compact(const int *x, int *kept, int *count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && x[i] > 0) {
        auto active = cg::coalesced_threads();
        int place = 0;
        if (active.thread_rank() == 0) place = atomicAdd(count, (int)active.size());
        place = active.shfl(place, 0) + active.thread_rank();
        kept[place] = x[i];
    }
}

extern "C" __global__ void same_keys(const int *keys, int *members, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned mask = __match_any_sync(~0u, i < n ? keys[i] : -1);
    if (i < n) members[i] = __popc(mask);
}
