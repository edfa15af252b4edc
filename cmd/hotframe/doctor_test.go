//go:build linux

package main

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"hotframe/internal/doctor"
)

func TestDoctor(t *testing.T) {
	usable := doctor.Report{Usable: true, Verdict: "all is well", Advice: []string{}}
	useless := doctor.Report{Verdict: "nothing works", Advice: []string{"use sudo"}}
	tests := []struct {
		name   string
		report doctor.Report
		status int
	}{
		{"some way works", usable, 0},
		{"no way works", useless, statusFailure},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, _, stdout, stderr := testApp(t)
			a.examine = func() doctor.Report { return tt.report }
			if status := a.run(context.Background(), []string{"doctor"}); status != tt.status || stderr.Len() > 0 {
				t.Errorf("exit status %d, want %d: %s", status, tt.status, stderr)
			}
			if !strings.Contains(stdout.String(), tt.report.Verdict+"\n") {
				t.Errorf("output %q lacks the verdict", stdout)
			}
			stdout.Reset()
			if status := a.run(context.Background(), []string{"doctor", "--json"}); status != tt.status {
				t.Errorf("with --json: exit status %d, want %d", status, tt.status)
			}
			var got doctor.Report
			if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || !reflect.DeepEqual(got, tt.report) {
				t.Errorf("JSON %q is %+v, %v", stdout, got, err)
			}
		})
	}
}
