/* The sized integers, for a libclang without headers of its own. */
#ifndef DEEM_BIND_STDINT_H
#define DEEM_BIND_STDINT_H
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#endif
