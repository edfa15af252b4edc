//go:build linux

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/pprof/profile"

	"hotframe/cmd/hotframe/internal/summary"
	"hotframe/collapse"
	"hotframe/flamegraph"
	"hotframe/internal/artefact"
)

// A format is a kind of output.
type format string

const (
	formatSVG    format = "svg"
	formatPprof  format = "pprof"
	formatFolded format = "folded"
)

// An output is one file to write; path is "-" for standard output.
type output struct {
	path   string
	format format
}

var defaultOutputs = []output{
	{"hotframe.svg", formatSVG},
	{"hotframe.pb.gz", formatPprof},
	{"hotframe.folded", formatFolded},
}

// formatOf tells the format by a file's name, or returns "".
func formatOf(path string) format {
	switch {
	case strings.HasSuffix(path, ".svg"):
		return formatSVG
	case strings.HasSuffix(path, ".pb.gz"), strings.HasSuffix(path, ".pprof"):
		return formatPprof
	case strings.HasSuffix(path, ".folded"):
		return formatFolded
	}
	return ""
}

// parseOutputs gives every path its format: the name's, else the one of --format.
func parseOutputs(paths []string, given string) ([]output, error) {
	named := format(given)
	switch named {
	case "", formatSVG, formatPprof, formatFolded:
	default:
		return nil, fmt.Errorf("--format: %q is none of svg, pprof, folded", given)
	}
	if len(paths) == 0 {
		var all []output
		for _, o := range defaultOutputs {
			if named == "" || named == o.format {
				all = append(all, o)
			}
		}
		return all, nil
	}
	var all []output
	used := false
	seen := make(map[string]bool)
	for _, path := range paths {
		o := output{path: path, format: formatOf(path)}
		switch {
		case path == "":
			return nil, errors.New("--output: no name")
		case seen[filepath.Clean(path)]:
			return nil, fmt.Errorf("--output: %q is given twice", path)
		case o.format == "" && named != "":
			o.format, used = named, true
		case path == "-":
			return nil, errors.New("--output -: say which with --format svg, pprof or folded")
		case o.format == "":
			return nil, fmt.Errorf("--output: %q ends in none of .svg, .pb.gz, .pprof, .folded, and there is no --format", path)
		}
		seen[filepath.Clean(path)] = true
		all = append(all, o)
	}
	if named != "" && !used {
		return nil, fmt.Errorf("--format %s: the names of all outputs tell their format already", named)
	}
	return all, nil
}

// checkStdout keeps compressed bytes off a terminal.
func (a *app) checkStdout(outputs []output) error {
	for _, o := range outputs {
		if o.path == "-" && o.format == formatPprof && a.terminal(a.stdout) {
			return errors.New("--output -: a pprof profile is not for a terminal; redirect standard output")
		}
	}
	return nil
}

// artefacts are the outputs of a recording, open from its beginning on. Its
// methods may be called from any goroutine.
type artefacts struct {
	outputs []output

	mu      sync.Mutex
	files   []*artefact.File // by index of outputs
	aborted bool
}

// ready reports whether all outputs are open.
func (s *artefacts) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files) == len(s.outputs)
}

// create opens all outputs, which takes until somebody reads if one is a FIFO.
func (s *artefacts) create(c artefact.Config, stdout io.Writer) error {
	for _, o := range s.outputs {
		var f *artefact.File
		var err error
		if o.path == "-" {
			f = artefact.To("standard output", stdout)
		} else if f, err = artefact.Create(o.path, c); err != nil {
			return err
		}
		if err := s.add(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *artefacts) add(f *artefact.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aborted {
		return errors.Join(errors.New("aborted"), f.Abort())
	}
	s.files = append(s.files, f)
	return nil
}

// abort removes what was written.
func (s *artefacts) abort() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Abort())
	}
	return errors.Join(errs...)
}

// write renders the profile into all outputs, and gives them their names when all
// are rendered.
func (s *artefacts) write(p *profile.Profile, heading flamegraph.Options) ([]summary.Written, error) {
	// Encoding writes into the profile, so it cannot run beside those who read it.
	var encoded bytes.Buffer
	for _, o := range s.outputs {
		if o.format == formatPprof && encoded.Len() == 0 {
			if err := p.WriteUncompressed(&encoded); err != nil {
				return nil, fmt.Errorf("encode the profile: %w", err)
			}
		}
	}

	errs := make([]error, len(s.outputs))
	var wg sync.WaitGroup
	for i, o := range s.outputs {
		wg.Go(func() {
			w := bufio.NewWriterSize(s.files[i], 64<<10)
			errs[i] = render(w, o.format, p, renderOptions{heading, encoded.Bytes()})
			if errs[i] == nil {
				errs[i] = w.Flush()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	var all []summary.Written
	for _, f := range s.files {
		if err := f.Commit(); err != nil {
			return nil, err
		}
		all = append(all, summary.Written{Path: f.Path, Size: f.Size()})
	}
	return all, nil
}

type renderOptions struct {
	heading flamegraph.Options
	encoded []byte // the profile as an uncompressed protocol buffer
}

func render(w io.Writer, f format, p *profile.Profile, o renderOptions) error {
	switch f {
	case formatSVG:
		return flamegraph.WriteSVG(w, p, o.heading)
	case formatFolded:
		return collapse.WriteFolded(w, p)
	}
	z := gzip.NewWriter(w) // no name, no time: same profile, same bytes
	if _, err := z.Write(o.encoded); err != nil {
		return err
	}
	return z.Close()
}
