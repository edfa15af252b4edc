package doctor

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Attempt tries what sampling needs and undoes it. It leaves RLIMIT_MEMLOCK alone.
func Attempt() Attempts {
	var a Attempts
	prog, err := loadProgram()
	a.LoadBPF = err

	host, err := openEvent(cpuClock(), -1)
	a.HostPerf = err
	switch {
	case err != nil:
		a.AttachBPF = err
	case prog == nil:
		a.AttachBPF = a.LoadBPF
	default:
		if err := unix.IoctlSetInt(host, unix.PERF_EVENT_IOC_SET_BPF, prog.FD()); err != nil {
			a.AttachBPF = fmt.Errorf("attach a BPF program to a perf event: %w", err)
		}
	}
	closeEvent(host)
	if prog != nil {
		prog.Close() // releases memory and a descriptor; nothing can be lost
	}

	fd, err := openEvent(cpuClock(), 0)
	a.OwnKernel = err
	closeEvent(fd)

	user := cpuClock()
	user.Bits |= unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv
	fd, err = openEvent(user, 0)
	a.OwnPerf = err
	closeEvent(fd)

	cycles := user
	cycles.Type, cycles.Config = unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_CPU_CYCLES
	fd, err = openEvent(cycles, 0)
	a.HardwarePM = err
	closeEvent(fd)
	return a
}

// loadProgram loads a program that does nothing, and makes a ring buffer.
func loadProgram() (*ebpf.Program, error) {
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return nil, fmt.Errorf("create a BPF ring buffer: %w", errno(err))
	}
	ring.Close()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.PerfEvent,
		License:      "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a BPF program: %w", errno(err))
	}
	return prog, nil
}

// errno is the system call's error without the loader's guesses about it.
func errno(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

func cpuClock() unix.PerfEventAttr {
	return unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Config:      unix.PERF_COUNT_SW_CPU_CLOCK,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})), // the ABI's idea of its own version
		Sample:      99,
		Bits:        unix.PerfBitFreq | unix.PerfBitDisabled,
		Sample_type: unix.PERF_SAMPLE_IP | unix.PERF_SAMPLE_CALLCHAIN,
	}
}

// openEvent opens an event on the whole first CPU for pid -1, else on a process.
func openEvent(attr unix.PerfEventAttr, pid int) (int, error) {
	cpu := -1
	if pid == -1 {
		cpu = 0
	}
	fd, err := unix.PerfEventOpen(&attr, pid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("perf_event_open: %w", err)
	}
	return fd, nil
}

func closeEvent(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
