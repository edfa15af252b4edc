//go:build linux

// Command hotframe profiles Linux hosts, processes and commands: see hotframe --help.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"hotframe/internal/launch"
)

func main() {
	runtime.LockOSThread() // see launch: perf events follow the first thread through execve
	launch.ExecIfWaiting()
	runtime.UnlockOSThread()
	// A closed pipe and a file beyond RLIMIT_FSIZE are errors of that one write.
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	ballast := make([]byte, ballastSize)
	status := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	runtime.KeepAlive(ballast)
	os.Exit(status)
}

// ballastSize is heap that is never touched, and so takes no memory. The
// collector runs when the heap has doubled; without the ballast that is every
// few MB of a short recording, and half of its user time. GOGC would do for small
// heaps and let large ones grow fivefold.
const ballastSize = 16 << 20

// run executes a command line and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return newApp(stdout, stderr).run(ctx, args)
}
