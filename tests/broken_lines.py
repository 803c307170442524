"""The lines that `tests.breakage` breaks: for each file, what is wrong then, the right code and the wrong."""

from tests.broken_kernel_lines import BROKEN_KERNEL_LINES

BROKEN_LINES: dict[str, dict[str, tuple[str, str]]] = {
    "cotbal/_compute.py": {
        "the weight is left out of the denominator": (
            "divisor = mass.sum() if arguments",
            "divisor = (mass != 0).to(mass.dtype).sum() if arguments",
        ),
        "the class weight is left out of the denominator (torch)": (
            "rows.times_class_weight(rows.weights)",
            "rows.weights",
        ),
        "rows of weight 0 are read": ("return weights != 0", "return labels != self.rows.ignore_index"),
        "a row that is given an infinite gradient spoils the classes without one": (
            "torch.where(is_finite, weights, 1.0)",
            "weights",
        ),
    },
    "cotbal/_inputs.py": {
        "shift leaves the token weights where they are": (
            "token_weights = None if token_weights is None else _shifted(token_weights, 0)",
            "token_weights = token_weights",
        ),
        "shift leaves the task ids where they are": (
            "task_ids = None if task_ids is None else _shifted(task_ids, 0)",
            "task_ids = task_ids",
        ),
        "rows of tasks of weight 0 are not read for the weight's gradient": (
            "reads_unweighted=_needs_gradient(task_weights) or",
            "reads_unweighted=False and",
        ),
        "vmap loses the gradient in silence": (
            "any(map(torch._C._functorch.is_functorch_wrapped_tensor, given))",
            "any(map(torch._C._functorch.is_gradtrackingtensor, given))",
        ),
        "an empty head is let through": (
            "weight.ndim != 2 or weight.numel() == 0",
            "weight.ndim != 2",
        ),
        "a smoothing above 1 is let through": (
            'lambda value: 0 <= value <= 1, "in 0..1"',
            'lambda value: 0 <= value, "in 0..1"',
        ),
        "a class weight that wants a gradient is let through": (
            "shape is not None and weights.requires_grad",
            "False",
        ),
    },
    "cotbal/ops.py": {
        "a retained gradient is scaled in place": (
            "tuple(None if each is None else each.clone() for each in gradients)",
            "tuple(gradients)",
        ),
        "a mode that looks on is passed by": (
            "torch._C._len_torch_dispatch_stack()",
            "False",
        ),
        "scaled by the kernel, the version of the gradient stays": (
            "torch.autograd.graph.increment_version(gradient)",
            "pass",
        ),
        "in place, the version of the logits stays": (
            "torch.autograd.graph.increment_version(logits)",
            "pass",
        ),
        "logits that were changed are handed out as their gradient": (
            "if first._version != self.version:",
            "if False:",
        ),
        "a gradient that was never formed is left out in silence": ("if missing:", "if False:"),
        "the gradient of the task weights lacks - L m": (
            "numerator = loss_sum - (loss * mass_sum).masked_fill(mass_sum == 0, 0)",
            "numerator = loss_sum",
        ),
        "an infinite loss reaches the weight of a task that is absent": (
            ".masked_fill(mass_sum == 0, 0)",
            "",
        ),
        "the gradient of the task weights has - L m under a given denominator": (
            "denominator, numerator = arguments.denominator, loss_sum",
            "denominator = arguments.denominator\n        numerator = loss_sum - loss * mass_sum",
        ),
        "the upstream gradient is not applied to the task weights of a sum": (
            "return _scaled(loss_sum, upstream)",
            "return loss_sum",
        ),
        "the operator does not say that it scales in place": (
            'mutates_args=("gradient",),\n    schema="(Tensor(a!) gradient',
            'mutates_args=(),\n    schema="(Tensor gradient',
        ),
        "a second derivative is let through": ("if torch.is_grad_enabled():", "if False:"),
        "a task weight takes a NaN from above where it is 0": (
            "torch.where(gradient == 0, 0, upstream * gradient)",
            "upstream * gradient",
        ),
        "a compiled vmap loses the gradient": ('if hasattr(operator, "register_vmap"):', "if False:"),
    },
    "cotbal/linear_ops.py": {
        "rows with a gradient each get their mean": (
            "weighed.weights * row_upstream",
            "weighed.weights * row_upstream.mean()",
        ),
        "accumulation does not look at the upstream gradient": (
            "require(factor == 1,",
            "require(factor == factor,",
        ),
        "an accumulated gradient is handed out twice": (
            "gradients[1 : 1 + _N_FEATURES], ctx.gradients, ctx.added = ctx.gradients, None, None",
            "gradients[1 : 1 + _N_FEATURES] = ctx.gradients",
        ),
        "an accumulated gradient is lost before another loss": (
            "Added.look_at_those_in(weight_grad)",
            "pass",
        ),
    },
    "cotbal/_accumulation.py": {
        "a computed weight is let through to accumulation": ("if not weight.is_leaf:", "if False:"),
        "a hook of a weight that accumulates is given None": ("if weight._backward_hooks:", "if False:"),
        "a checkpoint accumulates twice": ("if torch._C._current_graph_task_id() >= 0:", "if False:"),
        "a lost gradient is looked for in the first class alone": (
            "(rows.labels * rows.valid).index_select(0, row)",
            "0 * (rows.labels * rows.valid).index_select(0, row)",
        ),
        "an accumulated gradient is lost where it is made 0": (
            "(self._had_values & ~self._row().any())",
            "(self._had_values & False)",
        ),
    },
    "cotbal/_arguments.py": {
        "traced losses have the logits' dtype": (
            "dtype=accumulation_dtype(features.dtype))\n        loss =",
            "dtype=torch.float64)\n        loss =",
        ),
    },
    "integrations/huggingface/model_loss.py": {
        "a model's micro-batch is counted without its shift": ("shift=targets.shift)", "shift=False)"),
        "DDP's averaging is not undone": (
            "ranks = dist.get_world_size() if is_world else 1",
            "ranks = 1",
        ),
        "a device counts the tokens of all": ('per_device=denominator == "micro"', "per_device=False"),
        "a model in evaluation mode trains on its own loss": (
            "if not model.training and means_to_train:",
            "if False:",
        ),
        "an evaluation has our loss": ("return model.training", "return True"),
        "a model in float16 is let through": (
            "if is_cast or self.model.dtype is torch.float16:",
            "if is_cast:",
        ),
        "autocast to float16 is let through": (
            "if is_cast or self.model.dtype is torch.float16:",
            "if self.model.dtype is torch.float16:",
        ),
        "the stock Trainer scales the loss once more": (
            'if batch.get("num_items_in_batch") is not None:',
            "if False:",
        ),
        "a copy of a model runs with the parameters of the first": (
            "run = current if own is None else MethodType(own, model)",
            "run = current",
        ),
        "what wraps a model's forward keeps our loss": ("self._is_on = False", "pass"),
        "a model keeps our forward after unpatch": (
            'if vars(self.model).get("forward") is self._ours:',
            "if False:",
        ),
    },
} | BROKEN_KERNEL_LINES
