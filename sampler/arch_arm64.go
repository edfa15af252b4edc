package sampler

import "hotframe/unwind"

// unwindArch is the machine whose stacks are walked.
const unwindArch = unwind.ARM64

// pacMask has the bits of a return address that are no address but hold a pointer
// authentication code: those above 48, as in bpf/kernel.h.
const pacMask = ^uint64(1<<48 - 1)
