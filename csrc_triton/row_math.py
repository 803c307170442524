"""What the Triton kernels share: a row's logits, its statistics over the columns, its loss and its gradient.

`cols` are positions in a row, `is_col` says which of them are columns of it. Elsewhere, and at the label, the
logits read as -inf: the label's own terms are scalars, kept apart, so that its gradient needs no p - 1. The
word in which the label is stands apart (`row_parts`), so that no other column is compared with it.

The kernels live by their registers, and by their instructions where one program fills a multiprocessor.
Labels are int32, and the tie that decides a top-1 is looked up in memory (`tests/csrc_triton`).
"""

import triton
import triton.language as tl


@triton.jit
def exp(x):
    """e^x; what is below 2^-126 becomes 0, where `tl.exp` has three instructions more to keep it."""
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def largest_of(x):
    """The largest of the lanes x, or a NaN of them.

    Compared as integers of the same order: of these an NVIDIA warp finds the largest in one instruction, of
    float32 in ten that wait for each other. It takes registers: for rows of which one fills a multiprocessor.
    """
    return _ordered(tl.max(_ordered(x.to(tl.int32, bitcast=True)), 0)).to(tl.float32, bitcast=True)


@triton.jit
def _ordered(bits):
    """The bits of float32 numbers as integers of their order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def log_sum(others, label_exp, is_largest):
    """log(others + label_exp), of which the second is 1 where the label is largest.

    There it is log1p(others) to full relative precision: the rounding of 1 + others is divided out again.
    """
    total = others + label_exp
    log_total = tl.log(total)
    step = total - 1.0
    log1p = tl.where(step == 0.0, others, log_total * (others / tl.where(step == 0.0, 1.0, step)))
    return tl.where(is_largest, log1p, log_total)


@triton.jit
def tanh(x):
    """Hyperbolic tangent to full relative precision: a series near 0, where (1 - t) / (1 + t) cancels."""
    t = tl.exp(-2.0 * tl.abs(x))
    near = tl.where(tl.abs(x) < 0.25, x, 0.0)
    square = near * near
    series = 62.0 / 2835 + square * (-1382.0 / 155925)
    series = 1.0 + square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315 + square * series)))
    far = tl.where(x < 0.0, -1.0, 1.0) * ((1.0 - t) / (1.0 + t))
    return tl.where(tl.abs(x) < 0.25, near * series, far)


@triton.jit
def is_inner(cols, first, end, label_word, WORD: tl.constexpr):
    """Whether columns lie in first..end-1 and not in the label's word."""
    return (cols >= first) & (cols < end) & (cols // WORD != label_word)


@triton.jit
def is_another(cols, label):
    """Whether positions, of which -1 is no column, are columns and not the label's."""
    return (cols >= 0) & (cols != label)


@triton.jit
def load_logits(row_ptr, cols, is_col, CACHE: tl.constexpr):
    """The logits x of the columns in float32; `CACHE` is an eviction policy of the L2."""
    return tl.load(row_ptr + cols, mask=is_col, other=float("-inf"), eviction_policy=CACHE).to(tl.float32)


@triton.jit
def softcapped(x, is_other, softcap, HAS_SOFTCAP: tl.constexpr):
    """Z of the logits x; where there is none it stays -inf, which the cap alone would make finite."""
    if HAS_SOFTCAP:
        x = tl.where(is_other, softcap * tanh(x / softcap), float("-inf"))
    return x


@triton.jit
def softcap_slope(x, softcap, HAS_SOFTCAP: tl.constexpr):
    """dz/dx = 1 / cosh^2, which 1 - tanh^2 loses near the cap."""
    slope = 1.0
    if HAS_SOFTCAP:
        t = tl.exp(-2.0 * tl.abs(x / softcap))
        slope = 4.0 * t / ((1.0 + t) * (1.0 + t))
    return slope


@triton.jit
def finite_or_zero(x):
    """0 in place of -inf: what may be subtracted from -inf."""
    return tl.where(x == float("-inf"), 0.0, x)


@triton.jit
def exponentials(x, is_other, shift, softcap, HAS_SOFTCAP: tl.constexpr):
    """exp(z - shift) of the columns, 0 at the label."""
    return exp(softcapped(x, is_other, softcap, HAS_SOFTCAP) - shift)


@triton.jit
def smoothing_terms(z, cols, is_col, is_other, pivot, class_weights_ptr, HAS_CLASS_WEIGHTS: tl.constexpr):
    """(cw (z - z_y), cw) of the columns; a class of weight 0 adds exactly 0, whatever its logit.

    The first is 0 at the label, which `is_other` leaves out. Without class weights the second is 0: their sum
    is known.
    """
    is_counted = is_other
    terms = z - pivot
    class_weights = 0.0
    if HAS_CLASS_WEIGHTS:
        class_weights = tl.load(class_weights_ptr + cols, mask=is_col, other=0.0)
        is_counted &= class_weights != 0.0
        terms *= class_weights
    return tl.where(is_counted, terms, 0.0), class_weights


@triton.jit
def label_smoothing_term(label_z, label_class_weight):
    """The label's own cw (z - z_y): 0, unless its logit is -inf and its class counts."""
    term = label_class_weight * (label_z - finite_or_zero(label_z))
    return tl.where(label_class_weight == 0.0, 0.0, term)


@triton.jit
def smoothing_sums(
    x,
    cols,
    label,
    pivot,
    class_weights_ptr,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """The sums of `smoothing_terms` over a few columns; a position of -1 is none."""
    is_other = is_another(cols, label)
    z = softcapped(x, is_other, softcap, HAS_SOFTCAP)
    terms, class_weights = smoothing_terms(
        z, cols, cols >= 0, is_other, pivot, class_weights_ptr, HAS_CLASS_WEIGHTS
    )
    mass = 0.0
    if HAS_CLASS_WEIGHTS:
        mass = tl.sum(class_weights, 0)
    return tl.sum(terms, 0), mass


@triton.jit
def lanes_of(row_ptr, SIZE: tl.constexpr, N_LANES: tl.constexpr):
    """The positions 0..SIZE-1 as (words of a lane, lanes, columns of a word); a word has 128 bits.

    With as many lanes as threads a lane is what a thread holds, with fewer words a lane a part of it.
    """
    N_WORD: tl.constexpr = 128 // row_ptr.dtype.element_ty.primitive_bitwidth
    words = tl.arange(0, SIZE // (N_LANES * N_WORD))[:, None] * N_LANES + tl.arange(0, N_LANES)[None, :]
    return words[:, :, None] * N_WORD + tl.arange(0, N_WORD)[None, None, :]


@triton.jit
def lane_smoothing(
    z,
    cols,
    is_col,
    lane_smooth,
    lane_mass,
    pivot,
    class_weights_ptr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """Each lane's sums of `smoothing_terms` with these columns."""
    if HAS_SMOOTHING:
        terms, class_weights = smoothing_terms(
            z, cols, is_col, is_col, pivot, class_weights_ptr, HAS_CLASS_WEIGHTS
        )
        lane_smooth += tl.sum(tl.sum(terms, 2), 0)
        if HAS_CLASS_WEIGHTS:
            lane_mass += tl.sum(tl.sum(class_weights, 2), 0)
    return lane_smooth, lane_mass


@triton.jit
def lane_statistics(
    row_ptr,
    first,
    end,
    label_word,
    pivot,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    WORD: tl.constexpr,
    N_LANES: tl.constexpr,
):
    """Each lane's (largest x, largest z, sum of exp(z - largest), of cw (z - z_y), of cw) in first..end-1.

    All without the label's word. One scaling of the sum so far serves all columns of a lane.
    """
    lanes = lanes_of(row_ptr, STEP, N_LANES)
    lane_max_x = tl.full([N_LANES], float("-inf"), tl.float32)
    lane_max = tl.full([N_LANES], float("-inf"), tl.float32)
    lane_sum = tl.zeros([N_LANES], tl.float32)
    lane_smooth = tl.zeros([N_LANES], tl.float32)
    lane_mass = tl.zeros([N_LANES], tl.float32)
    for step in tl.range(0, tl.cdiv(end, STEP), num_stages=STAGES):
        start = step * STEP
        is_col = is_inner(lanes, first - start, end - start, label_word - start // WORD, WORD)
        # Read again soon: to be kept where the writes of other rows would displace it.
        x = load_logits(row_ptr + start, lanes, is_col, CACHE="evict_last")
        z = softcapped(x, is_col, softcap, HAS_SOFTCAP)
        new_max = tl.maximum(lane_max, tl.max(tl.max(z, 2), 0))
        shift = finite_or_zero(new_max)
        exps = exp(z - shift[None, :, None])
        lane_sum = lane_sum * exp(lane_max - shift) + tl.sum(tl.sum(exps, 2), 0)
        lane_max = new_max
        if HAS_SOFTCAP:
            lane_max_x = tl.maximum(lane_max_x, tl.max(tl.max(x, 2), 0))
        lane_smooth, lane_mass = lane_smoothing(
            z,
            lanes,
            is_col,
            lane_smooth,
            lane_mass,
            pivot,
            class_weights_ptr + start,
            HAS_SMOOTHING,
            HAS_CLASS_WEIGHTS,
        )
    if not HAS_SOFTCAP:
        lane_max_x = lane_max
    return lane_max_x, lane_max, lane_sum, lane_smooth, lane_mass


@triton.jit
def is_beaten(row_ptr, first, label, label_x, largest_x, BLOCK: tl.constexpr):
    """1 where a column has a larger logit than the label, or one of first..label-1 an equal one."""
    found = (largest_x > label_x).to(tl.int32)
    if largest_x == label_x:
        found = 0
        for start in range(0, label, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            is_before = (cols >= first) & (cols < label)
            x = tl.load(row_ptr + cols, mask=is_before, other=float("nan")).to(tl.float32)
            found = tl.maximum(found, tl.max((x == label_x).to(tl.int32), 0))
    return found


@triton.jit
def reads_row(weight, label, ignore_index, READS_UNWEIGHTED: tl.constexpr):
    """Whether a row is read: it has a weight, or, where that is asked for, a label."""
    is_read = weight != 0.0
    if READS_UNWEIGHTED:
        is_read = label != ignore_index
    return is_read


@triton.jit
def gradient_scale(weight, denominator, HAS_DENOMINATOR: tl.constexpr):
    """What a row's gradient is multiplied by: 0 under a denominator of 0."""
    scale = weight
    if HAS_DENOMINATOR:
        scale = tl.where(denominator > 0.0, weight / denominator, 0.0)
    return scale


@triton.jit
def gradient_factors(
    lse,
    mass,
    label_class_weight,
    n_classes,
    label_smoothing,
    z_loss,
    HAS_SMOOTHING: tl.constexpr,
    HAS_Z_LOSS: tl.constexpr,
):
    """(kept, shared): dc/dz = kept (p - [v = y]) + shared p - (eps / V) cw; `lse` is the z-loss's alone."""
    kept = label_class_weight
    shared = 0.0
    if HAS_SMOOTHING:
        kept = label_class_weight * (1.0 - label_smoothing)
        shared += label_smoothing / n_classes * mass
    if HAS_Z_LOSS:
        shared += 2.0 * z_loss * lse
    return kept, shared


@triton.jit
def row_loss(
    label_z,
    largest,
    log_total,
    smooth,
    mass,
    kept,
    n_classes,
    label_smoothing,
    z_loss,
    HAS_SMOOTHING: tl.constexpr,
    HAS_Z_LOSS: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """A row's c; lse is largest + log_total, `smooth` and `mass` are the sums of cw (z - z_y) and of cw."""
    loss = kept * ((largest - label_z) + log_total)
    if HAS_CLASS_WEIGHTS or HAS_SMOOTHING:
        # A label that counts nothing adds 0, or the NaN of its row.
        loss = tl.where(kept == 0.0, log_total * 0.0, loss)
    if HAS_SMOOTHING:
        # The smoothing terms count from the label's logit, or from 0 where that is -inf.
        spread = (largest - finite_or_zero(label_z)) + log_total
        loss += label_smoothing / n_classes * (mass * spread - smooth)
    if HAS_Z_LOSS:
        lse = largest + log_total
        loss += z_loss * lse * lse
    return loss


@triton.jit
def gradients(
    exps,
    x,
    cols,
    is_col,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """The gradient of the columns from exp(z - shift); their logits x are used under a softcap alone."""
    gradient = exps * factor
    if HAS_SMOOTHING:
        if HAS_CLASS_WEIGHTS:
            gradient -= smoothing_factor * tl.load(class_weights_ptr + cols, mask=is_col, other=0.0)
        else:
            gradient -= smoothing_factor
    return gradient * softcap_slope(x, softcap, HAS_SOFTCAP)
