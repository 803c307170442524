"""Those of `tests.broken_lines` that are in csrc_triton."""

BROKEN_KERNEL_LINES: dict[str, dict[str, tuple[str, str]]] = {
    "csrc_triton/checks.py": {
        "task ids out of range are let through": (
            "(values < 0) | (values >= end)",
            "(values < 0)",
        ),
        "weights below 0 are let through": (
            "values.isfinite() & (values >= 0)",
            "values.isfinite()",
        ),
        "a product of weights that is 0 is let through": (
            "require_each((product != 0) | (torch.minimum(a, b) <= 0), expected, b)",
            "pass",
        ),
        "weights whose sum is infinite are let through": (
            "require_each(torch.maximum(rows.weights, mass) <= most, expected, mass)",
            "pass",
        ),
    },
    "csrc_triton/compact.py": {
        "a valid count that is too small is let through": ("count > valid_count:", "count < 0:"),
        "correctness becomes a number of eight bytes": (
            ".masked_fill_(index < 0, fill)",
            ".masked_fill_(index < 0, fill) + 0",
        ),
    },
    "csrc_triton/products.py": {
        "only the last chunk's weight gradient is kept": (
            "torch.addmm(total, a, b, beta=beta, out=total)",
            "torch.addmm(total, a, b, beta=0, out=total)",
        ),
        "the weight gradient is rounded once per chunk": (
            "torch.addmm(slab, rows.to(total.dtype), b, beta=beta, out=slab)",
            "slab.copy_((slab * beta if beta else 0) + (rows.to(total.dtype) @ b).to(rows.dtype))",
        ),
    },
    "csrc_triton/logits_chunks.py": {
        "a label's term of the weight gradient is dropped": (
            "_add_at_(total, self.columns, self.label_values * chunk)",
            "pass",
        ),
        "a label's term of the hidden gradient is dropped": ("out.addcmul_(", "out.clone().addcmul_("),
        "a label's term stays in the products too": (
            "torch.where(is_own, nothing, found)",
            "found",
        ),
        "another piece's label takes the entry at the edge away": (
            "values.scatter_(1, column, torch.where(is_own, nothing, found))",
            "values.scatter_(1, column, 0.0)",
        ),
        "a chunk's pieces write over each other's gradient": (
            "self._gradient.narrow(0, start, n_rows)",
            "self._gradient.narrow(0, 0, n_rows)",
        ),
        "logits are rounded to 16 bits": ("return accumulation if is_wide", "return weight.dtype if is_wide"),
    },
    "csrc_triton/linear_gtw_cross_entropy.py": {
        "accumulation overwrites what is there": (
            "self.total, self.beta = into, 1",
            "self.total, self.beta = into, 0",
        ),
        "every piece of a chunk is made of its first rows": (
            "chunk.narrow(0, first, count)",
            "chunk.narrow(0, 0, count)",
        ),
        "only the last chunk's bias gradient is kept": (
            "self.bias_gradient.add_(",
            "self.bias_gradient.copy_(",
        ),
        "the bias is left out": ("if self.bias is not None:", "if False:"),
        "the product of a frozen head is made": (
            "is_single=is_single) if needs_weight_gradient else None",
            "is_single=is_single)",
        ),
    },
    "csrc_triton/task_stats.py": {
        "valid tokens are found by loss != 0": (
            "loss = torch.where(divisor > 0, loss / divisor, torch.zeros_like(loss))",
            "loss = loss / (rows.weights * (losses != 0)).sum()",
        ),
        "statistics are weighted by task": (
            "loss_sum=per_task(token_mass * losses, rows, read)",
            "loss_sum=per_task(rows.weights * losses, rows, read)",
        ),
        "the mass of a task lacks the class weights": (
            "mass_sum=per_task(rows.times_class_weight(token_mass), rows, read)",
            "mass_sum=per_task(token_mass, rows, read)",
        ),
    },
    "csrc_triton/row_sums.py": {
        "the loss is left undivided (Triton)": ("if HAS_DIVISOR:", "if False:"),
        "a label past the end is let through (Triton)": (
            "is_bad = is_valid & ((label < 0) | (label >= n_cols))",
            "is_bad = is_valid & (label < 0)",
        ),
        "a task id out of range is let through (Triton)": (
            "(has_task & is_weight(task_weight)) == 0",
            "is_weight(task_weight) == 0",
        ),
        "a token weight out of range is let through (Triton)": (
            "is_bad |= is_valid & (is_weight(token_weight) == 0)",
            "is_bad |= False",
        ),
        "a product of weights that is 0 is let through (Triton)": (
            "is_bad |= (weight > 0.0) & (token_weight > 0.0) & ",
            "is_bad |= False & ",
        ),
        "a product with a class weight that is 0 is let through (Triton)": (
            "is_bad |= (weight > 0.0) & (class_weight > 0.0) & ",
            "is_bad |= False & ",
        ),
        "a weight too large for a sum is let through (Triton)": (
            "is_bad |= weight > most",
            "is_bad |= False",
        ),
        "a class weight out of range is let through (Triton)": (
            "is_bad |= is_weight(class_weight) == 0",
            "is_bad |= False",
        ),
        "a denominator of 0 is let through (Triton)": (
            "((denominators == 0.0) & (weight == 0.0))",
            "(denominators == 0.0)",
        ),
        "only the last block's rows are summed (Triton)": ("loss_sum += tl.where(", "loss_sum = tl.where("),
        "the kernel forgets the task weight": (
            "weight *= task_weight",
            "weight *= 1.0",
        ),
        "the class weight is left out of the denominator (Triton)": (
            "tl.store(mass_ptr + rows, weight * class_weight, mask=is_row)",
            "tl.store(mass_ptr + rows, weight, mask=is_row)",
        ),
        "the mass of a task lacks the class weights (Triton)": (
            "token_weight *= tl.load(class_weights_ptr + label, mask=is_mine, other=0.0)",
            "token_weight *= 1.0",
        ),
    },
    "csrc_triton/torch_path.py": {
        "the label's term of the gradient is dropped (torch)": (
            "(rest * label_exp - kept * others) * factor",
            "rest * label_exp * factor",
        ),
        "smoothing is dropped from the loss (torch)": (
            "losses = losses + eps / n_classes * (mass * spread - smooth)",
            "losses = losses + 0",
        ),
        "smoothing is dropped from the gradient (torch)": (
            "exps.sub_(step if options.class_weights is None else step * options.class_weights)",
            "pass",
        ),
        "a class of weight 0 is smoothed onto (torch)": (".masked_fill_(options.class_weights == 0, 0)", ""),
        "the z-loss has the class weight (torch)": (
            "losses = losses + options.z_loss * lse**2",
            "losses = losses + options.z_loss * lse**2 * kept",
        ),
        "the z-loss's gradient lacks its 2 (torch)": ("rest = rest + 2 * options", "rest = rest + options"),
        "the cap's derivative is dropped (torch)": ("exps.mul_(slope)", "pass"),
        "hits are decided after the cap (torch)": (
            "is_first = z.max(dim=1)",
            "is_first = (z if options.softcap is None else (z / options.softcap).tanh()).max(dim=1)",
        ),
        "a label of class weight 0 hides a NaN (torch)": ("kept == 0, 0 * lse,", "kept == 0, rest,"),
        "a row of +inf is a hit (torch)": ("is_first & ~(others + label_exp).isnan()[:, 0]", "is_first"),
        "an infinite logit reaches the gradient of a row of weight 0 (torch)": (
            "    _clear_unweighted_(exps, scale)\n",
            "",
        ),
        "a gradient of 0 takes a NaN from above (torch)": (
            "rows.masked_fill_(zeros, 0)",
            "pass",
        ),
        "a row of -inf and blocks of it give NaN (torch)": (
            "z.sub_(finite_or_zero(largest)).exp_()",
            "z.sub_(z[:, :1]).exp_()",
        ),
    },
    "csrc_triton/row_math.py": {
        "negative logits are put in the wrong order (Triton)": (
            "return bits ^ ((bits >> 31) & 0x7FFFFFFF)",
            "return bits",
        ),
        "lanes of -inf are not guarded (Triton)": (
            "shift = finite_or_zero(new_max)",
            "shift = new_max",
        ),
        "columns past the end hold 0 (Triton)": (
            'tl.load(row_ptr + cols, mask=is_col, other=float("-inf"), eviction_policy=CACHE)',
            "tl.load(row_ptr + cols, mask=is_col, other=0.0, eviction_policy=CACHE)",
        ),
        "the label is counted among the others (Triton)": (
            "return (cols >= 0) & (cols != label)",
            "return cols >= 0",
        ),
        "the label's word is counted twice (Triton)": (" & (cols // WORD != label_word)", ""),
        "confidence near 1 is rounded away (Triton)": (
            "return tl.where(is_largest, log1p, log_total)",
            "return log_total",
        ),
        "the cap makes columns past the end finite (Triton)": (
            'x = tl.where(is_other, softcap * tanh(x / softcap), float("-inf"))',
            "x = softcap * tanh(x / softcap)",
        ),
        "the cap's derivative is dropped (Triton)": (
            "slope = 4.0 * t / ((1.0 + t) * (1.0 + t))",
            "slope = 1.0",
        ),
        "small logits lose their digits to the cap (Triton)": (
            "return tl.where(tl.abs(x) < 0.25, near * series, far)",
            "return far",
        ),
        "the label keeps all of its weight under smoothing (Triton)": (
            "kept = label_class_weight * (1.0 - label_smoothing)",
            "kept = label_class_weight",
        ),
        "smoothing is dropped from the loss (Triton)": (
            "loss += label_smoothing / n_classes * (mass * spread - smooth)",
            "loss += 0.0",
        ),
        "smoothing is dropped from the gradient (Triton)": (
            "            gradient -= smoothing_factor\n",
            "            gradient -= 0.0\n",
        ),
        "a class of weight 0 is smoothed onto (Triton)": (
            "is_counted &= class_weights != 0.0",
            "is_counted &= class_weights == class_weights",
        ),
        "the z-loss is lse and not its square (Triton)": ("z_loss * lse * lse", "z_loss * lse"),
        "a tie in the row before counts (Triton)": (
            "is_before = (cols >= first) & (cols < label)",
            "is_before = cols < label",
        ),
        "a tie in a later block is not found (Triton)": (
            "for start in range(0, label, BLOCK):",
            "for start in range(0, tl.minimum(label, 1), BLOCK):",
        ),
        "hits of long rows are decided after the cap (Triton)": (
            "lane_max_x = tl.maximum(lane_max_x, tl.max(tl.max(x, 2), 0))",
            "lane_max_x = lane_max",
        ),
    },
    "csrc_triton/row_parts.py": {
        "lanes of -inf are not guarded in the block (Triton)": (
            "held = exp(z - finite_or_zero(lane_max)[None, :, None])",
            "held = exp(z - lane_max[None, :, None])",
        ),
        "the label's word is left out of the edges' sums (Triton)": (
            "tl.sum(held_word + held_edges, 0)",
            "tl.sum(held_edges + held_word * 0.0, 0)",
        ),
        "a step reaches into the next row (Triton)": (
            "start = tl.minimum(start, end)",
            "start = start",
        ),
    },
    "csrc_triton/row_writes.py": {
        "a lane is not scaled to the row's largest logit (Triton)": (
            "block_factor = (factor * lane_scale)[None, :, None]",
            "block_factor = (factor + 0.0 * lane_scale)[None, :, None]",
        ),
        "the label's word of a row of scale 0 is not written (Triton)": (
            "        _store_zeros_at(gradient_row_ptr, word)\n",
            "",
        ),
        "the label's gradient is that of another column (Triton)": (
            "tl.where(word == label, label_gradient, gradient)",
            "gradient",
        ),
    },
    "csrc_triton/gtw_cross_entropy.py": {
        "an infinite logit reaches the gradient of a row of weight 0 (Triton)": (
            "if scale == 0.0:",
            "if label == -1:",
        ),
        "the label's term of the gradient is dropped (Triton)": (
            "per_exp * (shared * label_exp - kept * others)",
            "per_exp * shared * label_exp",
        ),
        "the label's gradient is formed as p - 1 (Triton)": (
            "per_exp * (shared * label_exp - kept * others)",
            "scale * ((kept + shared) * (label_exp / total) - kept)",
        ),
        "the z-loss's gradient is not weighted (Triton)": (
            "per_exp * (kept + shared),",
            "per_exp * kept + shared / total,",
        ),
        "the class weight is left out of the row's loss (Triton)": (
            "label_class_weight = tl.load(row_class_weights_ptr + column, mask=column >= 0, other=0.0)",
            "label_class_weight = 1.0",
        ),
        "hits are decided after the cap (Triton)": (
            "is_beaten(row_ptr, skew, column, label_x, largest_x,",
            "is_beaten(row_ptr, skew, column, label_z, largest,",
        ),
        "the loss of an ignored row is not written (Triton)": (
            "        tl.store(losses_ptr + row, 0.0)\n",
            "        pass\n",
        ),
        "confidence near 1 is rounded away beside a z-loss (Triton)": (
            "log_total = log_sum(others, label_exp, label_z == largest)\n            kept",
            "log_total = tl.log(total)\n            kept",
        ),
        "a label of -inf is not smoothed onto (Triton)": (
            "smooth + label_smoothing_term(label_z, label_class_weight),",
            "smooth,",
        ),
        "a row with a NaN is correct (Triton)": ("((beaten == 0) & (total == total))", "(beaten == 0)"),
        "the loss is rounded to the logits' dtype (Triton)": (
            "tl.store(losses_ptr + row, loss)",
            "tl.store(losses_ptr + row, loss.to(logits_ptr.dtype.element_ty).to(tl.float32))",
        ),
        "offsets are 32 bit (Triton)": (
            "ordinary sizes.\n    program = tl.program_id(0).to(tl.int64)",
            "ordinary sizes.\n    program = tl.program_id(0)",
        ),
        "a program of a pipeline computes its first row again (Triton)": (
            "row = program + own * tl.num_programs(0)",
            "row = program",
        ),
        "the edges of an odd gradient are not scaled (Triton)": (
            "_scale(row_ptr + edges, edges >= 0, factor)",
            "pass",
        ),
        "rows with a label are not scaled (Triton)": (
            "other=ignore_index) != ignore_index",
            "other=ignore_index) == ignore_index",
        ),
        "a gradient of 0 takes a NaN from above (Triton)": (
            "tl.where(scaled == 0.0, 0.0, scaled * factor)",
            "scaled * factor",
        ),
        "the upstream gradient is not applied (Triton)": (
            "is_scaled = factor != 1.0",
            "is_scaled = factor != factor",
        ),
    },
}
