//! What do clients rely on, line by line, and which test holds each line? A line without a test fails, and so does a
//! test that is no longer there.
use std::path::Path;

/// A line, what it says, and the tests that hold it: `module::name` of this binary, or a file and a name in it.
type Line = (u32, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const LINES: [Line; 30] = [
    (1, "without a key 401 with all four words, in JSON, with a request id", &[
        "auth::without_a_good_key_every_route_says_401_in_one_form", "clients/openai-python/client.py::errors",
        "clients/openai-node/client.mjs::errors",
    ]),
    (2, "401 for a key that does not count, 403 for one in the wrong place or for a model that it is not for, 404 for a model that is not there", &[
        "auth::the_key_of_a_deleted_user_stops_at_once", "auth::the_admin_key_is_no_user_key_and_the_other_way_round",
        "input::a_model_that_no_node_has_is_404", "clients/openai-python/client.py::errors",
        "key_models::a_key_is_only_for_its_models_on_every_route_and_in_every_list",
        "keys::an_expired_key_is_told_so",
        "keys::a_revoked_key_stops_at_once_and_the_others_go_on",
    ]),
    (3, "a key in each of three headers; two keys are a 400", &[
        "auth::a_key_is_taken_from_each_of_the_three_headers",
        "auth::the_same_key_in_several_headers_is_one_key_and_two_keys_are_a_mistake",
    ]),
    (4, "bodies that are no requests are 400", &["input::bodies_that_are_no_requests_are_400_and_name_the_field"]),
    (5, "413, 405 with Allow, and 404 in JSON", &[
        "bodies::a_body_above_the_limit_is_413_however_it_is_sent", "input::a_wrong_method_is_405_with_those_that_work",
        "input::an_unknown_path_is_404_in_json_with_any_method",
    ]),
    (6, "a 429 says when to come back in headers and words; SDKs come back then, and succeed", &[
        "limits::of_many_requests_at_once_exactly_as_many_as_the_limit_get_in",
        "limits::tokens_that_are_only_reserved_are_worth_waiting_for_and_come_back_when_the_client_leaves",
        "failures::a_full_queue_refuses_everybody_and_a_full_share_its_user",
        "clients/openai-python/client.py::retries", "clients/openai-node/client.mjs::retries",
        "clients/vercel-ai/client.mjs::errorsAndRetries", "clients/litellm/client.py::errors_and_retries",
    ]),
    (7, "nobody tries again when the day's tokens are used up", &[
        "caps::an_explicit_max_tokens_that_does_not_fit_is_refused_for_today",
        "limits::a_prompt_that_fills_the_day_by_itself_is_refused",
        "clients/openai-python/client.py::retries", "clients/openai-node/client.mjs::retries",
    ]),
    (8, "what is left falls by one, and resets are written as durations", &[
        "limits::what_is_left_of_the_minute_falls_by_one_with_every_kind_of_request",
        "limits::the_matchers_of_these_tests_match_what_clients_match",
    ]),
    (9, "an overload that passes never sends anybody away for more than 120 s", &[
        "outages::all_nodes_down_means_come_back_soon", "failures::who_waits_too_long_for_a_slot_is_sent_away",
        "failures::a_full_queue_refuses_everybody_and_a_full_share_its_user",
    ]),
    (10, "the headers of a stream, and its first byte at the first token", &[
        "streams::a_stream_has_the_headers_that_keep_proxies_from_holding_it_back",
        "streams::each_event_is_passed_on_before_the_next_one_exists",
        "native::each_native_line_is_passed_on_before_the_next_one_exists",
    ]),
    (11, "every event is one data line with one id, and the last is [DONE]", &[
        "streams::a_stream_is_events_of_one_kind_and_one_id_that_is_its_own",
    ]),
    (12, "no field that clients choke on, and the form of a keep-alive", &[
        "streams::a_stream_is_events_of_one_kind_and_one_id_that_is_its_own",
        "waiting::a_stream_that_waits_says_so_in_its_dialect_and_then_comes_whole",
    ]),
    (13, "every client stands a silent node", &[
        "waiting::a_stream_that_waits_says_so_in_its_dialect_and_then_comes_whole",
        "clients/openai-python/client.py::waits_and_breaks", "clients/openai-node/client.mjs::waitsAndBreaks",
        "clients/vercel-ai/client.mjs::waitsAndBreaks", "clients/langchain-openai/client.py::waits_and_breaks",
        "clients/llama-index/client.py::waits_and_breaks", "clients/litellm/client.py::waits_and_breaks",
    ]),
    (14, "usage is shown to those who ask, and the row is exact for all", &[
        "streams::the_usage_chunk_is_shown_to_those_who_ask_and_the_row_is_exact_for_all",
    ]),
    (15, "a node that dies on the way is an error in the stream, and no [DONE]", &[
        "broken_streams::a_stream_that_breaks_keeps_its_good_events_and_ends_with_an_error_and_is_not_tried_again",
        "clients/openai-python/client.py::waits_and_breaks",
    ]),
    (16, "a client that leaves stops the node, frees the slot, and is counted as such", &[
        "leaving::a_client_that_leaves_a_running_request_stops_the_node_at_once",
        "leaving::a_client_that_leaves_before_the_first_byte_stops_the_node_at_once",
        "leaving::a_client_that_leaves_in_the_middle_of_a_stream_pays_for_what_was_sent",
        "metrics::a_client_that_leaves_ends_its_attempt",
    ]),
    (17, "before the first byte another node is tried, after it none", &[
        "failures::whatever_a_node_does_before_its_first_byte_another_one_answers",
        "broken_streams::a_stream_that_breaks_keeps_its_good_events_and_ends_with_an_error_and_is_not_tried_again",
    ]),
    (18, "Ollama's lines: none is blank, and errors are strings", &[
        "bytes::a_stream_is_the_nodes_own_but_for_its_ids_and_blank_lines_wherever_it_is_cut",
        "native::a_native_stream_that_breaks_ends_with_an_error_line_and_never_with_done",
        "native::a_native_error_is_a_string_whatever_the_status",
        "clients/ollama-python/client.py::errors", "clients/ollama-js/client.mjs::errors",
    ]),
    (19, "what Ollama's clients ask for before anything else", &[
        "native_lists::the_door_and_the_version_are_open_and_the_lists_take_a_key",
        "ops::head_is_get_without_a_body_where_watchers_ask_for_it", "clients/ollama-python/client.py::lists",
        "clients/ollama-python/client.py::embeddings",
    ]),
    (20, "a preflight needs no key, errors can be read, and a page works in a browser", &[
        "cors::a_page_of_any_origin_may_ask_and_a_preflight_needs_no_key",
        "cors::every_answer_may_be_read_by_a_page_errors_too",
        "test_browser.py::test_a_page_of_another_origin_works_in_a_browser",
    ]),
    (21, "careless paths and base URLs", &[
        "paths::a_path_means_the_same_however_carelessly_it_was_joined",
        "clients/openai-python/client.py::models_and_base_urls", "clients/openai-node/client.mjs::modelsAndBaseUrls",
    ]),
    (22, "the list of models has the right form, at once, and names of every kind can be retrieved", &[
        "names::models_are_the_union_over_the_nodes_each_once_as_the_nodes_name_them",
        "names::the_list_of_models_comes_at_once_while_a_node_hangs",
        "names::other_names_are_listed_and_retrieved_like_models",
        "key_models::a_key_is_only_for_its_models_on_every_route_and_in_every_list",
        "key_models::other_names_and_stand_ins_do_not_go_around_the_models_of_a_key",
    ]),
    (23, "Anthropic's messages: order of events, pings, errors, versions", &[
        "anthropic::the_events_of_a_message_come_in_their_order",
        "anthropic::every_error_of_messages_is_in_anthropics_envelope",
        "anthropic::a_message_that_breaks_ends_with_an_error_event_and_never_with_message_stop",
        "node_headers::a_node_hears_which_version_of_anthropics_api_is_spoken",
        "clients/anthropic-python/client.py::message_and_stream", "clients/anthropic-python/client.py::waits_and_breaks",
    ]),
    (24, "a streamed response ends with response.completed", &[
        "responses::a_streamed_response_ends_with_response_completed", "clients/openai-python/client.py::responses",
        "clients/openai-node/client.mjs::responses",
    ]),
    (25, "embeddings of one text and several, as numbers and as base64", &[
        "relay::whatever_is_asked_the_gateway_answers_as_the_node_itself",
        "clients/openai-python/client.py::embeddings", "clients/openai-node/client.mjs::embeddings",
    ]),
    (26, "what is not known passes byte for byte", &[
        "fidelity::a_request_without_a_reason_for_an_edit_reaches_the_node_byte_for_byte",
        "fidelity::a_plain_answer_reaches_the_client_byte_for_byte_but_for_its_id",
        "fidelity::a_stream_reaches_the_client_byte_for_byte_but_for_the_documented_edits_wherever_it_is_cut",
        "bytes::a_plain_answer_is_the_nodes_own_but_for_its_id",
        "bytes::a_stream_is_the_nodes_own_but_for_its_ids_and_blank_lines_wherever_it_is_cut",
    ]),
    (27, "large prompts, many images, letters cut in the middle", &[
        "relay::a_prompt_of_ten_megabytes_of_any_script_reaches_the_node_whole",
        "relay::a_hundred_images_reach_the_node_whole", "streams::a_stream_that_comes_a_byte_at_a_time_arrives_whole",
    ]),
    (28, "connections used again, 100-continue, bodies in chunks, no HTTP/2", &[
        "wire::one_connection_carries_many_requests_of_every_kind",
        "wire::a_client_that_expects_100_continue_gets_it", "wire::a_body_in_chunks_is_a_body",
        "wire::http_2_by_prior_knowledge_is_refused_at_once_and_an_upgrade_stays_with_http_1",
    ]),
    (29, "the request id is ours, and the client's own is echoed", &[
        "relay::every_answer_carries_our_id_and_says_which_node_gave_it",
    ]),
    (30, "a node sees neither the client's headers nor its key", &[
        "node_headers::a_node_sees_none_of_the_clients_headers", "node_headers::a_nodes_own_key_goes_to_that_node_alone",
    ]),
];

#[test]
fn every_line_of_the_clients_checklist_is_held_by_tests_that_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (index, (line, says, held_by)) in LINES.iter().enumerate() {
        assert_eq!(*line as usize, index + 1);
        assert!(!held_by.is_empty(), "line {line} ({says})");
        for test in *held_by {
            let (place, name) = test.split_once("::").unwrap();
            let file = if place.contains('.') { place.to_owned() } else { format!("api/{place}.rs") };
            let text = std::fs::read_to_string(tests.join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let word = if file.ends_with(".rs") { format!("fn {name}(") } else { format!(" {name}(") };
            assert!(text.contains(&word) || text.contains(&format!("{name}, ")), "line {line} ({says}): {test}");
        }
    }
}
