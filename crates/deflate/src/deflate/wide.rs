//! The search with the processor's wide registers. Each has the result that `search.rs` has.
#![expect(
    unsafe_code,
    reason = "instructions that not every processor has, and loads by address"
)]

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm512_add_epi32, _mm512_add_epi64, _mm512_alignr_epi32,
    _mm512_and_si512, _mm512_andnot_si512, _mm512_broadcast_i32x4, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cmpge_epu32_mask, _mm512_cmpgt_epu32_mask,
    _mm512_cmplt_epu32_mask, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvttps_epi32,
    _mm512_extracti64x4_epi64, _mm512_i32gather_epi32, _mm512_i32gather_epi64,
    _mm512_i32scatter_epi32, _mm512_loadu_si512, _mm512_mask_mov_epi32, _mm512_max_epi32,
    _mm512_min_epu32, _mm512_mullo_epi32, _mm512_or_si512, _mm512_permutex2var_epi32,
    _mm512_popcnt_epi64, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{
    search::{FACTOR, GROUP, HASH_BITS, Heads, portable},
    token::{BYTE, FARTHEST, INDEX, LENGTH, REST, SEEN, SHORTEST, STEP, SYMBOL},
};

/// The processor has AVX2 and BMI1: what is in `search.rs`, compiled for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn get() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1");
        has.then_some(Self(()))
    }

    pub(super) fn search(self, heads: &mut Heads, map: &mut [u32], bytes: &[u8], start: usize) {
        #[target_feature(enable = "avx2,bmi1")]
        fn compiled(heads: &mut Heads, map: &mut [u32], bytes: &[u8], start: usize) {
            portable(heads, map, bytes, start);
        }
        let Self(()) = self;
        // SAFETY: there is no such value where the processor lacks any of it.
        unsafe { compiled(heads, map, bytes, start) }
    }
}

/// The processor has the parts of AVX-512 that are needed: those of Intel since Ice Lake and of AMD since Zen 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn get() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vpopcntdq");
        has.then_some(Self(()))
    }

    /// `map` is of whole groups, and [`SEEN`] bytes are behind it.
    pub(super) fn search(self, heads: &mut Heads, map: &mut [u32], bytes: &[u8], start: usize) {
        let Self(()) = self;
        let places = &bytes[start..start + map.len() + SEEN as usize];
        assert!(map.len().is_multiple_of(GROUP) && bytes.len() < i32::MAX as usize);
        // SAFETY: there is no such value where the processor lacks any of it. The heads are places before `start`, as `Search::piece`,
        // which alone calls this, has made sure of, or the first place, and those that this search puts there: `bytes` has those
        // of `places`, so each of them has eight bytes there.
        unsafe { sixteen_at_a_time(heads, map, places, bytes, start) }
    }
}

/// Where the bytes of two 64-bit words begin in each of four lanes that have the same sixteen bytes.
const EIGHTS: [u8; 64] = {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        order[at] = (at / 8 + at % 8) as u8;
        at += 1;
    }
    order
};
const COUNT: [u32; GROUP] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const EVEN: [u32; GROUP] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];

/// # Safety
///
/// `places` is as long as `map` and [`SEEN`] more; each of `heads` and each place has eight bytes in `bytes`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vpopcntdq")]
unsafe fn sixteen_at_a_time(
    heads: &mut Heads,
    map: &mut [u32],
    places: &[u8],
    bytes: &[u8],
    start: usize,
) {
    let all = |value: u32| _mm512_set1_epi32(value.cast_signed());
    // SAFETY: each of them has 64 bytes.
    let (eights, count, even) = unsafe {
        (
            _mm512_loadu_si512(EIGHTS.as_ptr().cast()),
            _mm512_loadu_si512(COUNT.as_ptr().cast()),
            _mm512_loadu_si512(EVEN.as_ptr().cast()),
        )
    };
    let heads = heads.as_mut_ptr();
    let mut here = _mm512_add_epi32(all(start as u32), count);
    // What the group before has, and its bytes: whether its last place gives way is known by the first one here.
    let mut before: Option<(&mut [u32], __m512i, __m512i)> = None;
    for (at, tokens) in map.chunks_exact_mut(GROUP).enumerate() {
        let group = places[at * GROUP..].as_ptr();
        // SAFETY: 24 bytes begin there, since a group more or eight bytes follow this one.
        let (low, high, byte) = unsafe {
            let low = _mm_loadu_si128(group.cast());
            let high = _mm_loadu_si128(group.add(8).cast());
            (
                _mm512_broadcast_i32x4(low),
                _mm512_broadcast_i32x4(high),
                _mm512_cvtepu8_epi32(low),
            )
        };
        let low = _mm512_shuffle_epi8(low, eights);
        let high = _mm512_shuffle_epi8(high, eights);
        let fours = _mm512_permutex2var_epi32(low, even, high);
        let hash = _mm512_srli_epi32::<{ 32 - HASH_BITS }>(_mm512_mullo_epi32(fours, all(FACTOR)));
        // SAFETY: a hash is a place among the heads, and each of those has eight bytes in `bytes`.
        let (candidate, low_then, high_then) = unsafe {
            let candidate = _mm512_i32gather_epi32::<4>(hash, heads.cast());
            _mm512_i32scatter_epi32::<4>(heads.cast(), hash, here);
            let low = _mm512_castsi512_si256(candidate);
            let high = _mm512_extracti64x4_epi64::<1>(candidate);
            (
                candidate,
                _mm512_i32gather_epi64::<1>(low, bytes.as_ptr().cast()),
                _mm512_i32gather_epi64::<1>(high, bytes.as_ptr().cast()),
            )
        };
        let equal = _mm512_permutex2var_epi32(
            trailing_zeros(_mm512_xor_si512(low, low_then)),
            even,
            trailing_zeros(_mm512_xor_si512(high, high_then)),
        );
        let length = _mm512_srli_epi32::<3>(equal);
        let distance = _mm512_sub_epi32(_mm512_sub_epi32(here, candidate), all(1));
        let is_match = _mm512_cmplt_epu32_mask(distance, all(FARTHEST))
            & _mm512_cmpge_epu32_mask(length, all(SHORTEST));
        let coarse = _mm512_and_si512(
            _mm512_castps_si512(_mm512_cvtepi32_ps(distance)),
            all(0xffc0_0000),
        );
        let symbol = _mm512_max_epi32(
            _mm512_sub_epi32(_mm512_srli_epi32::<22>(coarse), all(254)),
            _mm512_min_epu32(distance, all(1)),
        );
        let rest = _mm512_sub_epi32(distance, _mm512_cvttps_epi32(_mm512_castsi512_ps(coarse)));
        let token = _mm512_or_si512(
            _mm512_or_si512(
                _mm512_add_epi32(length, all(LENGTH)),
                _mm512_slli_epi32::<SYMBOL>(symbol),
            ),
            _mm512_or_si512(
                _mm512_slli_epi32::<REST>(rest),
                _mm512_slli_epi32::<STEP>(length),
            ),
        );
        let byte = _mm512_or_si512(byte, all(BYTE));
        let token = _mm512_mask_mov_epi32(byte, is_match, token);
        if let Some((tokens, last, bytes)) = before.take() {
            // SAFETY: they are a chunk of a group's length.
            unsafe { settle(tokens, last, bytes, token) };
        }
        before = Some((tokens, token, byte));
        here = _mm512_add_epi32(here, all(GROUP as u32));
    }
    if let Some((tokens, last, bytes)) = before {
        // SAFETY: they are a chunk of a group's length.
        unsafe { settle(tokens, last, bytes, _mm512_setzero_si512()) };
    }
}

/// Of each word, 64 if it is 0.
#[inline]
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
fn trailing_zeros(words: __m512i) -> __m512i {
    let less = _mm512_add_epi64(words, _mm512_set1_epi64(-1));
    _mm512_popcnt_epi64(_mm512_andnot_si512(words, less))
}

/// Writes a group's tokens, with bytes where the next place has a longer match.
///
/// # Safety
///
/// `tokens` is as long as a group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn settle(tokens: &mut [u32], found: __m512i, bytes: __m512i, next: __m512i) {
    let mask = _mm512_set1_epi32(INDEX.cast_signed());
    let next = _mm512_alignr_epi32::<1>(next, found);
    let gives_way =
        _mm512_cmpgt_epu32_mask(_mm512_and_si512(next, mask), _mm512_and_si512(found, mask));
    let settled = _mm512_mask_mov_epi32(found, gives_way, bytes);
    // SAFETY: they are sixteen words.
    unsafe { _mm512_storeu_si512(tokens.as_mut_ptr().cast(), settled) };
}
