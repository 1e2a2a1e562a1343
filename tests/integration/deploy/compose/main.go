// Command compose prints a project as JSON, as `docker compose config` does: same loader, same checks, same .env.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/sirupsen/logrus"
)

// warnings turns what Compose only warns of, such as a variable without a value, into a failure.
type warnings struct{ found []string }

func (w *warnings) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (w *warnings) Fire(entry *logrus.Entry) error {
	w.found = append(w.found, entry.Message)
	return nil
}

func load(folder string, profiles []string) ([]byte, error) {
	hook := &warnings{}
	logrus.AddHook(hook)
	options, err := cli.NewProjectOptions(nil, cli.WithWorkingDirectory(folder), cli.WithEnvFiles(), cli.WithDotEnv,
		cli.WithDefaultConfigPath, cli.WithProfiles(profiles))
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	if len(hook.found) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(hook.found, "\n"))
	}
	return project.MarshalJSON()
}

func main() {
	text, err := load(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(text)
}
