//go:build linux

package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go release it was built from",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				info = &debug.BuildInfo{}
			}
			return failure(writeVersion(a.stdout, info))
		},
	}
}

func writeVersion(w io.Writer, info *debug.BuildInfo) error {
	setting := func(key string) string {
		for _, s := range info.Settings {
			if s.Key == key {
				return s.Value
			}
		}
		return ""
	}
	version := info.Main.Version
	if version == "" {
		version = "(unknown)"
	}
	s := "hotframe " + version + "\n"
	if revision := setting("vcs.revision"); revision != "" {
		s += "commit   " + revision
		if setting("vcs.modified") == "true" {
			s += ", modified"
		}
		s += ", " + setting("vcs.time") + "\n"
	}
	s += fmt.Sprintf("built    %s %s/%s\n", info.GoVersion, setting("GOOS"), setting("GOARCH"))
	_, err := io.WriteString(w, s)
	return err
}
