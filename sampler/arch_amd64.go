package sampler

import "hotframe/unwind"

// unwindArch is the machine whose stacks are walked.
const unwindArch = unwind.AMD64

// pacMask has the bits of a return address that are no address.
const pacMask = 0
