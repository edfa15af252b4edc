package sampler

// A StopReason says why the walk of a stack ended. The values are those of
// enum stop_reason in bpf/wire.h; TestStopReasonsMatchBPF holds them equal.
type StopReason uint8

const (
	StopNone         StopReason = iota // no walk was made
	StopRoot                           // the bottom of the thread's stack, proven by unwind data
	StopFPEnd                          // the frame pointer chain ended with a zero: the bottom, or code without frame pointers
	StopFPInvalid                      // the frame pointer is not above the stack pointer, or not aligned
	StopFPUnreadable                   // the frame could not be read
	StopRAInvalid                      // the return address is no user-space address
	StopDepth                          // --max-depth frames were taken
	StopCompat                         // a 32-bit task on a 64-bit kernel
	StopNoRegs                         // the task's user registers could not be had
	StopKernel                         // a kernel stack, as the kernel's unwinder gave it, whole
	StopKernelDepth                    // a kernel stack cut at kernel.perf_event_max_stack
	StopKernelError                    // the kernel's unwinder gave no stack
	StopNoRule                         // the code has no unwind information, nor a frame pointer
	StopUnmapped                       // the return address is in no executable mapping
	StopUnreadable                     // what an unwind rule points to could not be read
	StopBadCFA                         // an unwind rule led down the stack
	StopLostRegister                   // an unwind rule needs a register that was not kept
	StopGoSwitch                       // Go's runtime went on on another stack
	StopCopyEnd                        // the stack is larger than what was copied of it
	stopReasonCount
)

var stopReasonText = [stopReasonCount]string{
	StopNone:         "not walked",
	StopRoot:         "thread bottom",
	StopFPEnd:        "frame pointer chain ended",
	StopFPInvalid:    "no frame pointer",
	StopFPUnreadable: "frame unreadable",
	StopRAInvalid:    "bad return address",
	StopDepth:        "max depth",
	StopCompat:       "32-bit task",
	StopNoRegs:       "no user registers",
	StopKernel:       "kernel entry",
	StopKernelDepth:  "kernel max depth",
	StopKernelError:  "kernel stack unreadable",
	StopNoRule:       "no unwind information",
	StopUnmapped:     "return address unmapped",
	StopUnreadable:   "stack unreadable",
	StopBadCFA:       "bad unwind information",
	StopLostRegister: "register not kept",
	StopGoSwitch:     "Go stack switch",
	StopCopyEnd:      "stack too large to copy",
}

// String is the reason as it is shown in stacks, as in "[unknown: max depth]".
func (r StopReason) String() string {
	if r < stopReasonCount {
		return stopReasonText[r]
	}
	return "invalid stop reason"
}

// Whole reports whether a walk that ended for this reason is missing no frame
// as far as the walker could tell.
func (r StopReason) Whole() bool {
	switch r {
	case StopNone, StopRoot, StopFPEnd, StopKernel:
		return true
	}
	return false
}
