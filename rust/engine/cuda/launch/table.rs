//! The kernels by name, and the sources that they are in.

/// A file of kernels, a module of its own: cuda/`name`.cu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub name: &'static str,
    /// Each kernel's name, and the dynamic shared memory that it is launched with.
    pub kernels: &'static [(&'static str, u32)],
}

/// `KernelId`, and what is known of each kernel: cuda/README.md has their parameters.
macro_rules! kernels {
    ($($source:literal { $($id:ident: $name:literal $(($shared:literal))?),+ $(,)? })+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum KernelId {
            $($($id),+),+
        }

        /// All kernels together are in the order of `KernelId`.
        pub const SOURCES: &[Source] = &[
            $(Source { name: $source, kernels: &[$(($name, 0 $(+ $shared)?)),+] }),+
        ];
    };
}

kernels! {
    "batch" { AdvanceBatch: "ferrule_advance_batch" }
    "embed" { Embed: "ferrule_embed", EmbedF16: "ferrule_embed_f16" }
    "norm" { RmsNorm: "ferrule_rms_norm", AddRmsNorm: "ferrule_add_rms_norm" }
    "rope" {
        RopeAndStore: "ferrule_rope_and_store",
        RopeAndStoreInt8: "ferrule_rope_and_store_int8",
        RopeAndStoreFp8: "ferrule_rope_and_store_fp8",
    }
    "attention_decode" {
        DecodeAttention64: "ferrule_decode_attention_d64",
        DecodeAttention128: "ferrule_decode_attention_d128",
        DecodeAttention256: "ferrule_decode_attention_d256",
        DecodeInt8Attention64: "ferrule_decode_attention_int8_d64",
        DecodeInt8Attention128: "ferrule_decode_attention_int8_d128",
        DecodeInt8Attention256: "ferrule_decode_attention_int8_d256",
        DecodeFp8Attention64: "ferrule_decode_attention_fp8_d64",
        DecodeFp8Attention128: "ferrule_decode_attention_fp8_d128",
        DecodeFp8Attention256: "ferrule_decode_attention_fp8_d256",
        MergeSplits: "ferrule_merge_splits",
    }
    "attention_prefill" {
        PrefillAttention64: "ferrule_prefill_attention_d64" (46080),
        PrefillAttention128: "ferrule_prefill_attention_d128" (87040),
        PrefillAttention256: "ferrule_prefill_attention_d256" (101376),
        PrefillInt8Attention64: "ferrule_prefill_attention_int8_d64" (45056),
        PrefillInt8Attention128: "ferrule_prefill_attention_int8_d128" (86016),
        PrefillInt8Attention256: "ferrule_prefill_attention_int8_d256" (100864),
        PrefillFp8Attention64: "ferrule_prefill_attention_fp8_d64" (44032),
        PrefillFp8Attention128: "ferrule_prefill_attention_fp8_d128" (84992),
        PrefillFp8Attention256: "ferrule_prefill_attention_fp8_d256" (100352),
    }
    "gemm" {
        Gemm: "ferrule_gemm" (98304),
        GemmF32: "ferrule_gemm_f32" (98304),
        GemmF16: "ferrule_gemm_f16" (98304),
        GemmF16F32: "ferrule_gemm_f16_f32" (98304),
        GemmInt4: "ferrule_gemm_int4" (63744),
        GemmInt4F32: "ferrule_gemm_int4_f32" (63744),
        GemmInt8: "ferrule_gemm_int8" (75264),
        GemmInt8F32: "ferrule_gemm_int8_f32" (75264),
        GemmInt4Min: "ferrule_gemm_int4_min" (67584),
        GemmInt4MinF32: "ferrule_gemm_int4_min_f32" (67584),
        GemmInt8Min: "ferrule_gemm_int8_min" (79872),
        GemmInt8MinF32: "ferrule_gemm_int8_min_f32" (79872),
        GemmMxfp4: "ferrule_gemm_mxfp4" (62208),
        GemmMxfp4F32: "ferrule_gemm_mxfp4_f32" (62208),
        GroupedGemm: "ferrule_grouped_gemm" (98304),
        GroupedGemmF16: "ferrule_grouped_gemm_f16" (98304),
        GroupedGemmInt4: "ferrule_grouped_gemm_int4" (63744),
        GroupedGemmInt8: "ferrule_grouped_gemm_int8" (75264),
        GroupedGemmInt4Min: "ferrule_grouped_gemm_int4_min" (67584),
        GroupedGemmInt8Min: "ferrule_grouped_gemm_int8_min" (79872),
        GroupedGemmMxfp4: "ferrule_grouped_gemm_mxfp4" (62208),
        SumParts: "ferrule_sum_parts",
        SumPartsF32: "ferrule_sum_parts_f32",
    }
    "gemm_skinny" {
        SkinnyGemmM8: "ferrule_skinny_gemm_m8",
        SkinnyGemmM16: "ferrule_skinny_gemm_m16",
        SkinnyGemmM32: "ferrule_skinny_gemm_m32",
        SkinnyGemmWideM8: "ferrule_skinny_gemm_wide_m8",
        SkinnyGemmWideM16: "ferrule_skinny_gemm_wide_m16",
        SkinnyGemmWideM32: "ferrule_skinny_gemm_wide_m32",
        SkinnyGemmF32M8: "ferrule_skinny_gemm_f32_m8",
        SkinnyGemmF32M16: "ferrule_skinny_gemm_f32_m16",
        SkinnyGemmF32M32: "ferrule_skinny_gemm_f32_m32",
        SkinnyGemmF32WideM8: "ferrule_skinny_gemm_f32_wide_m8",
        SkinnyGemmF32WideM16: "ferrule_skinny_gemm_f32_wide_m16",
        SkinnyGemmF32WideM32: "ferrule_skinny_gemm_f32_wide_m32",
        SkinnyF16M8: "ferrule_skinny_gemm_f16_m8",
        SkinnyF16M16: "ferrule_skinny_gemm_f16_m16",
        SkinnyF16M32: "ferrule_skinny_gemm_f16_m32",
        SkinnyF16WideM8: "ferrule_skinny_gemm_f16_wide_m8",
        SkinnyF16WideM16: "ferrule_skinny_gemm_f16_wide_m16",
        SkinnyF16WideM32: "ferrule_skinny_gemm_f16_wide_m32",
        SkinnyF16F32M8: "ferrule_skinny_gemm_f16_f32_m8",
        SkinnyF16F32M16: "ferrule_skinny_gemm_f16_f32_m16",
        SkinnyF16F32M32: "ferrule_skinny_gemm_f16_f32_m32",
        SkinnyF16F32WideM8: "ferrule_skinny_gemm_f16_f32_wide_m8",
        SkinnyF16F32WideM16: "ferrule_skinny_gemm_f16_f32_wide_m16",
        SkinnyF16F32WideM32: "ferrule_skinny_gemm_f16_f32_wide_m32",
        SkinnyInt4M8: "ferrule_skinny_gemm_int4_m8",
        SkinnyInt4M16: "ferrule_skinny_gemm_int4_m16",
        SkinnyInt4M32: "ferrule_skinny_gemm_int4_m32",
        SkinnyInt4WideM8: "ferrule_skinny_gemm_int4_wide_m8",
        SkinnyInt4WideM16: "ferrule_skinny_gemm_int4_wide_m16",
        SkinnyInt4WideM32: "ferrule_skinny_gemm_int4_wide_m32",
        SkinnyInt4F32M8: "ferrule_skinny_gemm_int4_f32_m8",
        SkinnyInt4F32M16: "ferrule_skinny_gemm_int4_f32_m16",
        SkinnyInt4F32M32: "ferrule_skinny_gemm_int4_f32_m32",
        SkinnyInt4F32WideM8: "ferrule_skinny_gemm_int4_f32_wide_m8",
        SkinnyInt4F32WideM16: "ferrule_skinny_gemm_int4_f32_wide_m16",
        SkinnyInt4F32WideM32: "ferrule_skinny_gemm_int4_f32_wide_m32",
        SkinnyInt8M8: "ferrule_skinny_gemm_int8_m8",
        SkinnyInt8M16: "ferrule_skinny_gemm_int8_m16",
        SkinnyInt8M32: "ferrule_skinny_gemm_int8_m32",
        SkinnyInt8WideM8: "ferrule_skinny_gemm_int8_wide_m8",
        SkinnyInt8WideM16: "ferrule_skinny_gemm_int8_wide_m16",
        SkinnyInt8WideM32: "ferrule_skinny_gemm_int8_wide_m32",
        SkinnyInt8F32M8: "ferrule_skinny_gemm_int8_f32_m8",
        SkinnyInt8F32M16: "ferrule_skinny_gemm_int8_f32_m16",
        SkinnyInt8F32M32: "ferrule_skinny_gemm_int8_f32_m32",
        SkinnyInt8F32WideM8: "ferrule_skinny_gemm_int8_f32_wide_m8",
        SkinnyInt8F32WideM16: "ferrule_skinny_gemm_int8_f32_wide_m16",
        SkinnyInt8F32WideM32: "ferrule_skinny_gemm_int8_f32_wide_m32",
        SkinnyInt4MinM8: "ferrule_skinny_gemm_int4_min_m8",
        SkinnyInt4MinM16: "ferrule_skinny_gemm_int4_min_m16",
        SkinnyInt4MinM32: "ferrule_skinny_gemm_int4_min_m32",
        SkinnyInt4MinWideM8: "ferrule_skinny_gemm_int4_min_wide_m8",
        SkinnyInt4MinWideM16: "ferrule_skinny_gemm_int4_min_wide_m16",
        SkinnyInt4MinWideM32: "ferrule_skinny_gemm_int4_min_wide_m32",
        SkinnyInt4MinF32M8: "ferrule_skinny_gemm_int4_min_f32_m8",
        SkinnyInt4MinF32M16: "ferrule_skinny_gemm_int4_min_f32_m16",
        SkinnyInt4MinF32M32: "ferrule_skinny_gemm_int4_min_f32_m32",
        SkinnyInt4MinF32WideM8: "ferrule_skinny_gemm_int4_min_f32_wide_m8",
        SkinnyInt4MinF32WideM16: "ferrule_skinny_gemm_int4_min_f32_wide_m16",
        SkinnyInt4MinF32WideM32: "ferrule_skinny_gemm_int4_min_f32_wide_m32",
        SkinnyInt8MinM8: "ferrule_skinny_gemm_int8_min_m8",
        SkinnyInt8MinM16: "ferrule_skinny_gemm_int8_min_m16",
        SkinnyInt8MinM32: "ferrule_skinny_gemm_int8_min_m32",
        SkinnyInt8MinWideM8: "ferrule_skinny_gemm_int8_min_wide_m8",
        SkinnyInt8MinWideM16: "ferrule_skinny_gemm_int8_min_wide_m16",
        SkinnyInt8MinWideM32: "ferrule_skinny_gemm_int8_min_wide_m32",
        SkinnyInt8MinF32M8: "ferrule_skinny_gemm_int8_min_f32_m8",
        SkinnyInt8MinF32M16: "ferrule_skinny_gemm_int8_min_f32_m16",
        SkinnyInt8MinF32M32: "ferrule_skinny_gemm_int8_min_f32_m32",
        SkinnyInt8MinF32WideM8: "ferrule_skinny_gemm_int8_min_f32_wide_m8",
        SkinnyInt8MinF32WideM16: "ferrule_skinny_gemm_int8_min_f32_wide_m16",
        SkinnyInt8MinF32WideM32: "ferrule_skinny_gemm_int8_min_f32_wide_m32",
        SkinnyMxfp4M8: "ferrule_skinny_gemm_mxfp4_m8",
        SkinnyMxfp4M16: "ferrule_skinny_gemm_mxfp4_m16",
        SkinnyMxfp4M32: "ferrule_skinny_gemm_mxfp4_m32",
        SkinnyMxfp4WideM8: "ferrule_skinny_gemm_mxfp4_wide_m8",
        SkinnyMxfp4WideM16: "ferrule_skinny_gemm_mxfp4_wide_m16",
        SkinnyMxfp4WideM32: "ferrule_skinny_gemm_mxfp4_wide_m32",
        SkinnyMxfp4F32M8: "ferrule_skinny_gemm_mxfp4_f32_m8",
        SkinnyMxfp4F32M16: "ferrule_skinny_gemm_mxfp4_f32_m16",
        SkinnyMxfp4F32M32: "ferrule_skinny_gemm_mxfp4_f32_m32",
        SkinnyMxfp4F32WideM8: "ferrule_skinny_gemm_mxfp4_f32_wide_m8",
        SkinnyMxfp4F32WideM16: "ferrule_skinny_gemm_mxfp4_f32_wide_m16",
        SkinnyMxfp4F32WideM32: "ferrule_skinny_gemm_mxfp4_f32_wide_m32",
        GroupedSkinnyM8: "ferrule_grouped_skinny_gemm_m8",
        GroupedSkinnyM32: "ferrule_grouped_skinny_gemm_m32",
        GroupedSkinnyWideM8: "ferrule_grouped_skinny_gemm_wide_m8",
        GroupedSkinnyWideM32: "ferrule_grouped_skinny_gemm_wide_m32",
        GroupedSkinnyF16M8: "ferrule_grouped_skinny_gemm_f16_m8",
        GroupedSkinnyF16M32: "ferrule_grouped_skinny_gemm_f16_m32",
        GroupedSkinnyF16WideM8: "ferrule_grouped_skinny_gemm_f16_wide_m8",
        GroupedSkinnyF16WideM32: "ferrule_grouped_skinny_gemm_f16_wide_m32",
        GroupedSkinnyInt4M8: "ferrule_grouped_skinny_gemm_int4_m8",
        GroupedSkinnyInt4M32: "ferrule_grouped_skinny_gemm_int4_m32",
        GroupedSkinnyInt4WideM8: "ferrule_grouped_skinny_gemm_int4_wide_m8",
        GroupedSkinnyInt4WideM32: "ferrule_grouped_skinny_gemm_int4_wide_m32",
        GroupedSkinnyInt8M8: "ferrule_grouped_skinny_gemm_int8_m8",
        GroupedSkinnyInt8M32: "ferrule_grouped_skinny_gemm_int8_m32",
        GroupedSkinnyInt8WideM8: "ferrule_grouped_skinny_gemm_int8_wide_m8",
        GroupedSkinnyInt8WideM32: "ferrule_grouped_skinny_gemm_int8_wide_m32",
        GroupedSkinnyInt4MinM8: "ferrule_grouped_skinny_gemm_int4_min_m8",
        GroupedSkinnyInt4MinM32: "ferrule_grouped_skinny_gemm_int4_min_m32",
        GroupedSkinnyInt4MinWideM8: "ferrule_grouped_skinny_gemm_int4_min_wide_m8",
        GroupedSkinnyInt4MinWideM32: "ferrule_grouped_skinny_gemm_int4_min_wide_m32",
        GroupedSkinnyInt8MinM8: "ferrule_grouped_skinny_gemm_int8_min_m8",
        GroupedSkinnyInt8MinM32: "ferrule_grouped_skinny_gemm_int8_min_m32",
        GroupedSkinnyInt8MinWideM8: "ferrule_grouped_skinny_gemm_int8_min_wide_m8",
        GroupedSkinnyInt8MinWideM32: "ferrule_grouped_skinny_gemm_int8_min_wide_m32",
        GroupedSkinnyMxfp4M8: "ferrule_grouped_skinny_gemm_mxfp4_m8",
        GroupedSkinnyMxfp4M32: "ferrule_grouped_skinny_gemm_mxfp4_m32",
        GroupedSkinnyMxfp4WideM8: "ferrule_grouped_skinny_gemm_mxfp4_wide_m8",
        GroupedSkinnyMxfp4WideM32: "ferrule_grouped_skinny_gemm_mxfp4_wide_m32",
    }
    "columns" { OrderColumns: "ferrule_order_columns" }
    "moe" {
        MoeRoute: "ferrule_moe_route",
        MoeSort: "ferrule_moe_sort",
        MoeGather: "ferrule_moe_gather",
        MoeCombine: "ferrule_moe_combine",
    }
    "activation" { GatedSilu: "ferrule_gated_silu", GatedGeluTanh: "ferrule_gated_gelu_tanh" }
    "logits" { Softcap: "ferrule_softcap", EditLogits: "ferrule_edit_logits" }
    "sample" { Sample: "ferrule_sample" }
    "kv_copy" { CopyBlocks: "ferrule_copy_blocks" }
}
