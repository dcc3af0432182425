// What differs between compilers and instruction sets.
//
// VAB_CLONES marks plain loops that the compiler builds once per instruction set; the version is
// chosen when the module is loaded. Two loops it cannot vectorise well have versions by hand.
// VAB_ONE_VERSION leaves one, for the compiler's target (-fsanitize=thread cannot choose at load).

#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(VAB_ONE_VERSION)
#include <immintrin.h>
#define VAB_X86_VERSIONS 1
#if defined(__clang__)  // chooses by feature; by architecture it would look for Intel's names
#define VAB_V3 "avx2"
#define VAB_V4 "avx512f"
#else
#define VAB_V3 "arch=x86-64-v3"
#define VAB_V4 "arch=x86-64-v4"
#endif
#define VAB_CLONES __attribute__((target_clones("default", VAB_V3, VAB_V4)))
#define VAB_DEFAULT __attribute__((target("default")))
#define VAB_TARGET_V3 __attribute__((target(VAB_V3)))
#define VAB_TARGET_V4 __attribute__((target(VAB_V4)))
#else  // NEON is the base of aarch64; elsewhere the compiler's target decides
#define VAB_X86_VERSIONS 0
#define VAB_CLONES
#define VAB_DEFAULT
#endif
#if defined(_MSC_VER)
#define VAB_INLINE static __forceinline
#define VAB_RESTRICT __restrict
#define VAB_PREFETCH(address) static_cast<void>(address)
#else
#define VAB_INLINE static inline __attribute__((always_inline))
#define VAB_RESTRICT __restrict__
#define VAB_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#endif
