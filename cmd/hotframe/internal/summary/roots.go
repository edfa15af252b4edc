package summary

import (
	"strings"

	"hotframe/internal/frames"
)

// A start is how code comes to run without a caller.
type start uint8

const (
	startProgram      start = iota + 1 // the kernel jumps to it after execve
	startThread                        // clone or clone3 return into it
	startGo                            // the Go runtime puts it below a goroutine or a system thread
	switchGo                           // the Go runtime leaves a goroutine's stack here and ends the chain on purpose
	startKernelThread                  // the kernel's own threads
	startIdle                          // a CPU's idle task
	startKernelEntry                   // from user mode: the rest is the user stack
)

// starts are the functions that a whole stack can begin with.
var starts = map[string]start{
	"_start":                         startProgram, // crt1.o, and ld.so
	"_dl_start_user":                 startProgram, // ld.so, glibc before 2.35
	"_start_c":                       startProgram, // musl
	"_dlstart":                       startProgram, // musl's ld.so
	"__libc_start_main":              startProgram, // where _start has no unwind data
	"__libc_start_main_impl":         startProgram, // glibc since 2.34
	"__libc_start_call_main":         startProgram, // glibc since 2.34
	"libc_start_main_stage2":         startProgram, // musl
	"_rt0_amd64":                     startProgram, // Go without cgo
	"_rt0_amd64_linux":               startProgram,
	"_rt0_arm64_linux":               startProgram,
	"runtime.rt0_go":                 startProgram,
	"runtime.rt0_go.abi0":            startProgram,
	"clone":                          startThread, // glibc, musl
	"__clone":                        startThread,
	"clone3":                         startThread, // glibc since 2.34
	"__clone3":                       startThread,
	"start_thread":                   startThread, // glibc's pthread_create
	"thread_start":                   startThread, // glibc on arm64; musl has it in clone.s
	"__clone_internal":               startThread,
	"runtime.clone":                  startThread,
	"runtime.clone.abi0":             startThread,
	"runtime.goexit":                 startGo,
	"runtime.goexit.abi0":            startGo,
	"runtime.mstart":                 startGo,
	"runtime.mstart.abi0":            startGo,
	"runtime.mcall":                  switchGo,
	"runtime.morestack":              switchGo,
	"runtime.morestack.abi0":         switchGo,
	"ret_from_fork":                  startKernelThread,
	"ret_from_fork_asm":              startKernelThread, // amd64, since Linux 6.6
	"kthread":                        startKernelThread,
	"cpu_startup_entry":              startIdle,
	"secondary_startup":              startIdle,
	"secondary_startup_64":           startIdle,
	"secondary_startup_64_no_verify": startIdle, // amd64, since Linux 5.9
	"common_startup_64":              startIdle, // amd64, since Linux 6.9
	"x86_64_start_kernel":            startIdle, // of the first CPU
	"x86_64_start_reservations":      startIdle,
	"start_kernel":                   startIdle,
	"rest_init":                      startIdle,
	"secondary_start_kernel":         startIdle, // arm64
	"__secondary_switched":           startIdle,
	"__primary_switched":             startIdle,
}

// kernelEntries are prefixes: the kernel has one entry for each exception and
// each system call convention.
var kernelEntries = []string{
	"entry_SYSCALL", "entry_SYSENTER", "entry_INT80", "asm_", "error_entry", "paranoid_entry", // amd64
	"el0_", "el0t_", "el1_", "el1h_", "ret_to_user", // arm64
}

// ProgramRoot reports whether a complete stack can begin with f.
func ProgramRoot(f frames.Frame) bool {
	s := startOf(f)
	return s != 0 && s != startKernelEntry
}

// KernelRoot reports whether a complete kernel stack can begin with f, where user
// stacks were left out.
func KernelRoot(f frames.Frame) bool { return startOf(f) != 0 }

// startOf is 0 for a function that has a caller.
func startOf(f frames.Frame) start {
	name, _, _ := strings.Cut(f.Name, "@") // the version of an ELF symbol
	s, ok := starts[name]
	if ok && f.Kernel() == (s == startKernelThread || s == startIdle) {
		return s
	}
	if !f.Kernel() {
		return 0
	}
	for _, prefix := range kernelEntries {
		if strings.HasPrefix(f.Name, prefix) {
			return startKernelEntry
		}
	}
	return 0
}
