"""The digit world: Algorithm 1 on real handwritten digits and a tiny but real LLaVA, in minutes on a CPU."""
