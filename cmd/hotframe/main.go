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
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run executes a command line and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return newApp(stdout, stderr).run(ctx, args)
}
