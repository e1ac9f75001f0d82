// OpenAI's and Ollama's own clients for Go.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// A demo: three simulated nodes.
var gateway = os.Getenv("GATEWAY_URL")

// One over node.py, which lets clients send many wrong keys.
var faulty = os.Getenv("FAULTY_GATEWAY_URL")

var ctx = context.Background()

func main() {
	log.SetFlags(log.Lshortfile)
	openaiGo()
	ollamaAPI()
	info, ok := debug.ReadBuildInfo()
	check(ok, "no build information")
	for _, module := range info.Deps {
		if module.Path == "github.com/openai/openai-go/v3" || module.Path == "github.com/ollama/ollama" {
			fmt.Println("PASS", module.Path, module.Version)
		}
	}
}

func openaiGo() {
	key := user()
	client := openai.NewClient(option.WithBaseURL(gateway+"/v1"), option.WithAPIKey(key))
	asked := openai.ChatCompletionNewParams{
		Model:    "llama3.2",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")},
	}
	plain, err := client.Chat.Completions.New(ctx, asked)
	check(err == nil, err)
	said := plain.Choices[0].Message.Content
	check(said != "" && plain.Usage.CompletionTokens > 0, plain.RawJSON())

	stream := client.Chat.Completions.NewStreaming(ctx, asked)
	var streamed strings.Builder
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			streamed.WriteString(choice.Delta.Content)
		}
	}
	check(stream.Err() == nil, stream.Err())
	check(streamed.String() == said, streamed.String())
	completed(key, 2)

	wrong := openai.NewClient(option.WithBaseURL(faulty+"/v1"), option.WithAPIKey("sk-wrong"))
	_, err = wrong.Chat.Completions.New(ctx, asked)
	var refused *openai.Error
	check(errors.As(err, &refused) && refused.StatusCode == 401 && refused.Code == "invalid_api_key", err)
	asked.Model = "nothere"
	_, err = client.Chat.Completions.New(ctx, asked)
	check(errors.As(err, &refused) && refused.StatusCode == 404 && refused.Code == "model_not_found", err)
}

// With the key in the path, as the program `ollama` has to send it.
func ollamaAPI() {
	key := user()
	client := ollama(gateway + "/k/" + key)
	check(client.Heartbeat(ctx) == nil, "no heartbeat")
	version, err := client.Version(ctx)
	check(err == nil && version != "", err)
	listed, err := client.List(ctx)
	check(err == nil && len(listed.Models) > 3, err)
	// This is how `ollama show` asks: an empty `model` beside the `name`.
	shown, err := client.Show(ctx, &api.ShowRequest{Name: "llama3.2"})
	check(err == nil && len(shown.Capabilities) > 0, err)

	said := map[bool]string{}
	for _, stream := range []bool{false, true} {
		asked := api.ChatRequest{Model: "llama3.2", Messages: []api.Message{{Role: "user", Content: "hello"}}, Stream: &stream}
		err = client.Chat(ctx, &asked, func(answer api.ChatResponse) error {
			said[stream] += answer.Message.Content
			return nil
		})
		check(err == nil, err)
	}
	check(said[false] != "" && said[false] == said[true], said)
	completed(key, 2)

	err = client.Pull(ctx, &api.PullRequest{Model: "other"}, func(api.ProgressResponse) error { return nil })
	check(err != nil && strings.Contains(err.Error(), "operator"), err)
	_, err = ollama(faulty + "/k/sk-wrong").List(ctx)
	var refused api.AuthorizationError
	check(errors.As(err, &refused) && refused.StatusCode == 401, err)
}

func ollama(base string) *api.Client {
	address, err := url.Parse(base)
	check(err == nil, err)
	return api.NewClient(address, http.DefaultClient)
}

// Makes a user; the key.
func user() string {
	var made struct {
		Key string `json:"api_key"`
	}
	request("POST", "/admin/users", os.Getenv("ADMIN_API_KEY"), map[string]any{
		"user_id": fmt.Sprintf("c-%d", time.Now().UnixNano()), "requests_per_minute": nil, "tokens_per_day": nil,
	}, &made)
	return made.Key
}

// Waits for so many usage rows of the user, all of them completed; rows are written behind the answer.
func completed(key string, count int) {
	var found struct {
		Data []struct {
			Status string
			Tokens int `json:"completion_tokens"`
		}
	}
	for range 500 {
		request("GET", "/v1/usage?limit=1000", key, nil, &found)
		if len(found.Data) >= count {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	check(len(found.Data) == count, found)
	for _, row := range found.Data {
		check(row.Status == "completed" && row.Tokens > 0, found)
	}
}

func request(method, path, key string, body, answer any) {
	encoded, err := json.Marshal(body)
	check(err == nil, err)
	asked, err := http.NewRequest(method, gateway+path, bytes.NewReader(encoded))
	check(err == nil, err)
	asked.Header.Set("Authorization", "Bearer "+key)
	answered, err := http.DefaultClient.Do(asked)
	check(err == nil, err)
	defer answered.Body.Close()
	check(answered.StatusCode < 300, answered.Status)
	err = json.NewDecoder(answered.Body).Decode(answer)
	check(err == nil, err)
}

// Ends the program unless this holds.
func check(holds bool, otherwise any) {
	if !holds {
		log.Output(2, fmt.Sprint(otherwise))
		os.Exit(1)
	}
}
