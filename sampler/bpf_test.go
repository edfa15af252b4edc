//go:build linux && (amd64 || arm64)

package sampler

import (
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"hotframe/bpf"
	"hotframe/internal/testutil"
)

// TestVerifierBudget holds what the verifier goes through when a program is
// loaded: it is most of the time to the first sample.
func TestVerifierBudget(t *testing.T) {
	testutil.NeedPrivileges(t)
	for _, tt := range []struct {
		program string
		budget  int // verified instructions; 1,000,000 is where the kernel refuses
	}{
		{bpf.SamplerProgOnTick, 10_000},
		{bpf.SamplerProgOnTickLegacy, 100_000},
	} {
		t.Run(tt.program, func(t *testing.T) {
			spec, err := bpf.LoadSampler()
			if err != nil {
				t.Fatal(err)
			}
			for name := range spec.Programs {
				if name != tt.program {
					delete(spec.Programs, name)
				}
			}
			c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
				Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
			if err != nil {
				if tt.program == bpf.SamplerProgOnTick && !haveLoop() {
					t.Skip("this kernel has no bpf_loop: ", err)
				}
				t.Fatal(err)
			}
			defer c.Close()
			log := c.Programs[tt.program].VerifierLog
			m := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(log)
			if m == nil {
				t.Fatalf("no count in the verifier's log: %s", log)
			}
			if n, _ := strconv.Atoi(m[1]); n == 0 || n > tt.budget {
				t.Errorf("%s instructions verified, budget %d", m[1], tt.budget)
			}
		})
	}
}

// TestBPFCountsAndStacks reads a whole recording of all CPUs: the account comes out even, samples are in
// order, and equal stacks are one.
func TestBPFCountsAndStacks(t *testing.T) {
	testutil.NeedPrivileges(t)
	busy := exec.Command(testutil.Program(t, "deep.c", "-fno-omit-frame-pointer"), "30", "20")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer busy.Wait()
	defer busy.Process.Kill()
	src, err := OpenBPF(Config{Frequency: 997, IncludeIdle: true})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	time.AfterFunc(time.Second, func() { src.Stop() })
	var s Sample
	var samples uint64
	deep := map[*Stack]int{}
	for {
		err := src.Read(&s)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		samples++
		if s.Process == nil || s.Kernel == nil && s.User == nil {
			t.Fatalf("sample without process or stack: %+v", s)
		}
		if s.PID == int32(busy.Process.Pid) && s.User != nil && len(s.User.Frames) > 30 {
			deep[s.User]++
		}
	}
	st := src.Stats()
	var sum uint64
	for o, n := range st.Outcomes {
		if Outcome(o) != OutcomeUndelivered {
			sum += n
		}
	}
	if sum != st.Ticks || st.Outcomes[OutcomeEmitted] != samples || st.Outcomes[OutcomeIdle] != 0 {
		t.Errorf("%d samples read, stats %+v", samples, st)
	}
	seen := map[string]bool{}
	hits := 0
	for stack, n := range deep {
		key := string(appendFrames(nil, stack))
		if seen[key] {
			t.Error("one stack behind two pointers")
		}
		seen[key] = true
		hits += n
	}
	if hits < 100 || len(deep) > hits/2 {
		t.Errorf("%d samples of %d stacks, want many of few", hits, len(deep))
	}
}

func appendFrames(to []byte, s *Stack) []byte {
	for _, f := range s.Frames {
		to = strconv.AppendUint(append(to, ' '), uint64(f), 16)
	}
	return append(to, byte(s.Stop))
}
