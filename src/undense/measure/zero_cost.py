"""Operations that compute no FLOP: they move, rearrange, fill or draw numbers, or ask about them.

Logic on booleans is here too, and so is everything pointwise on integers (indices, masks); the
counter tells that from the operands, not from this list.
"""

from __future__ import annotations

_VIEWS = """
view reshape _unsafe_view _reshape_alias as_strided alias detach t transpose permute expand
broadcast_to squeeze unsqueeze flatten unflatten slice select narrow split split_with_sizes chunk
unbind diagonal movedim swapaxes unfold view_as_real view_as_complex real imag _conj _neg_view
resolve_conj resolve_neg as_strided_scatter lift lift_fresh lift_fresh_copy unsafe_split
unsafe_split_with_sizes unsafe_chunk values indices _values _indices crow_indices col_indices
"""

_COPIES = """
clone copy _foreach_copy _to_copy to contiguous cat stack concat repeat repeat_interleave tile roll
flip rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
_pad_circular im2col where masked_fill masked_scatter masked_select gather take take_along_dim index
index_select _unsafe_index scatter index_copy index_fill select_scatter slice_scatter
diagonal_scatter copysign slice_backward select_backward diagonal_backward unfold_copy view_copy
t_copy transpose_copy permute_copy expand_copy squeeze_copy unsqueeze_copy slice_copy select_copy
unbind_copy split_copy split_with_sizes_copy detach_copy alias_copy complex tril triu tril_indices
triu_indices diag_embed nonzero nonzero_static embedding resize set fill_diagonal coalesce _coalesce
to_sparse _to_sparse to_dense _to_dense sparse_coo_tensor _local_scalar_dense
masked_scatter_backward block_diag channel_shuffle pixel_shuffle pixel_unshuffle narrow_copy
as_strided_copy reflection_pad3d replication_pad3d _stack _chunk_cat _foreach_clone _copy_from
_conj_copy _neg_view_copy _lazy_clone copy_sparse_to_sparse sparse_mask _sparse_mask_projection
_to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc sparse_compressed_tensor
_sparse_compressed_tensor_unsafe _validate_compressed_sparse_indices
_validate_sparse_compressed_tensor_args _convert_indices_from_coo_to_csr
_convert_indices_from_csr_to_coo ccol_indices row_indices view_as_real_copy view_as_complex_copy
upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d lu_unpack
_sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_with_dims item equal is_same_size
_nested_tensor_from_mask
"""

_FILLS = """
empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros
ones ones_like new_ones full full_like new_full fill zero eye arange linspace logspace scalar_tensor
fft_fftfreq fft_rfftfreq hann_window hamming_window _foreach_zero _efficientzerotensor tensor range
one_hot
"""

_RANDOM = """
rand rand_like randn randn_like randint randint_like randperm normal uniform bernoulli exponential
log_normal geometric cauchy random multinomial _standard_gamma poisson
"""

_LOGIC = """
logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor
bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ isin
"""

_QUESTIONS = """
sym_size sym_numel sym_stride sym_storage_offset sym_is_contiguous size stride is_pinned _pin_memory
pin_memory record_stream _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range
sym_constrain_range_for_size _has_same_storage_numel _version _fused_sdp_choice
_has_compatible_shallow_copy_type _debug_has_internal_overlap is_set_to _linalg_check_errors
_is_all_true _is_any_true is_nonzero is_coalesced _nnz dense_dim sparse_dim result_type
"""

ZERO_COST: frozenset[str] = frozenset(
    f"aten.{name}"
    for group in (_VIEWS, _COPIES, _FILLS, _RANDOM, _LOGIC, _QUESTIONS)
    for name in group.split()
) | {
    "prim.device",
    "prims.device_put",
    "profiler._record_function_enter",
    "profiler._record_function_enter_new",
    "profiler._record_function_exit",
}
