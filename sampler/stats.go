package sampler

// An Outcome is what became of one timer tick. The values are those of enum
// outcome in bpf/wire.h, then those that only user space can see.
type Outcome uint8

const (
	OutcomeEmitted     Outcome = iota // a sample
	OutcomeIdle                       // the CPU was idle and idle was not asked for
	OutcomeFiltered                   // not of the target (--comm)
	OutcomeLostRing                   // lost: the ring buffer was full
	OutcomeLostDecode                 // lost: the record was not understood
	OutcomeUndelivered                // lost: the timer fired late or not at all, or while the CPU ran another BPF program
	outcomeCount
)

var outcomeText = [outcomeCount]string{
	OutcomeEmitted:     "emitted",
	OutcomeIdle:        "idle",
	OutcomeFiltered:    "filtered out",
	OutcomeLostRing:    "ring buffer full",
	OutcomeLostDecode:  "undecodable record",
	OutcomeUndelivered: "not delivered by the kernel",
}

// String names the outcome as the summary prints it.
func (o Outcome) String() string {
	if o < outcomeCount {
		return outcomeText[o]
	}
	return "invalid outcome"
}

// Outcomes lists all outcomes in order.
func Outcomes() []Outcome {
	all := make([]Outcome, outcomeCount)
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

// Lost reports whether the outcome is a loss: a tick that should have become
// a sample of this recording and did not.
func (o Outcome) Lost() bool { return o >= OutcomeLostRing && o < outcomeCount }

// Stats is the account of a recording. Ticks equals the sum of Outcomes
// but OutcomeUndelivered, whose ticks never happened.
type Stats struct {
	Ticks    uint64               // times the sampling event fired
	Outcomes [outcomeCount]uint64 // indexed by Outcome

	// SidebandLost counts process records (mmap, comm, fork, exit) that the
	// kernel dropped. Each loss is followed by a rescan of /proc.
	SidebandLost uint64
}

// Lost is the sum of all losses.
func (s *Stats) Lost() uint64 {
	var n uint64
	for o, v := range s.Outcomes {
		if Outcome(o).Lost() {
			n += v
		}
	}
	return n
}
