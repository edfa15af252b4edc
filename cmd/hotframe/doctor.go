//go:build linux

package main

import (
	"encoding/json"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"hotframe/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host allows, and how to be allowed more",
		Long: `Doctor reads what the kernel says about itself and tries what sampling needs.
It changes nothing. Exit status: 0 when hotframe can profile something here, else 1.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r := a.examine()
			write := r.WriteText
			if asJSON {
				write = func(w io.Writer) error {
					e := json.NewEncoder(w)
					e.SetIndent("", "  ")
					return e.Encode(r)
				}
			}
			if err := write(a.stdout); err != nil {
				return failure(err)
			}
			if !r.Usable {
				return &exitError{status: statusFailure}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func examine() doctor.Report {
	return doctor.Examine(doctor.Host{Root: os.DirFS("/"), Arch: runtime.GOARCH, Attempts: doctor.Attempt()})
}
