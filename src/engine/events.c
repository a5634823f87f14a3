/* SPDX-License-Identifier: MIT */
/*
 * The stream is one JSON object after the other, each ended by a newline (Go's
 * json.Encoder; application/jsonl since API 1.52).
 */
#include "engine/events.h"

#include "engine/json.h"

#include <stdbool.h>
#include <stdio.h>
#include <time.h>

/* An event carries all labels of its container; this is far beyond any. */
#define EVENT_MAX_BYTES ((size_t)4 << 20)
/* The engine sends the response's header before it subscribes (moby
 * getEvents), so ask for the moments before as well; repeats do no harm. */
#define LOOK_BACK_SECONDS 10

#define FILTERS                                                                                    \
    "{\"type\":[\"volume\",\"container\"],\"event\":[\"create\",\"destroy\",\"start\",\"die\","    \
    "\"pause\",\"unpause\",\"rename\",\"prune\"]}"

struct follower {
    const struct engine_events_listener *listener;
    struct buf line;
    bool connected;
};

static void report(struct follower *follower, const char *text, size_t len)
{
    cJSON *json cleanup_json = json_parse(text, len);
    const cJSON *actor = cJSON_GetObjectItemCaseSensitive(json, "Actor");
    const cJSON *attributes = cJSON_GetObjectItemCaseSensitive(actor, "Attributes");
    struct engine_event event = {.type = json_string(json, "Type"),
                                 .action = json_string(json, "Action"),
                                 .id = json_string(actor, "ID")};
    if (!event.type || !event.action || !event.id)
        return;
    if (json_string(attributes, follower->listener->ignore_label))
        return;
    follower->listener->event(follower->listener->data, &event);
}

static void report_connected(struct follower *follower)
{
    if (!follower->connected)
        follower->listener->connected(follower->listener->data);
    follower->connected = true;
}

static int on_bytes(void *data, const void *bytes, size_t len, struct fail *why)
{
    struct follower *follower = data;
    report_connected(follower);
    int r = buf_add(&follower->line, bytes, len);
    if (r < 0)
        return fail_errno(why, -r, "an event of the engine");
    size_t from = 0;
    const char *end;
    while ((end = memchr(follower->line.data + from, '\n', follower->line.len - from))) {
        size_t to = (size_t)(end - follower->line.data);
        report(follower, follower->line.data + from, to - from);
        from = to + 1;
    }
    buf_drop_front(&follower->line, from);
    return 0;
}

static void on_header(void *data)
{
    report_connected(data);
}

int engine_events_follow(struct engine *engine, const struct engine_events_listener *listener,
                         struct cancel *cancel, struct fail *why)
{
    cleanup_free char *filters = engine_escape(FILTERS);
    cleanup_free char *path = NULL;
    if (!filters || asprintf(&path, "/events?since=%lld&filters=%s",
                             (long long)time(NULL) - LOOK_BACK_SECONDS, filters) < 0) {
        path = NULL;
        return fail_errno(why, ENOMEM, "events");
    }
    struct follower follower = {.listener = listener};
    buf_init(&follower.line, EVENT_MAX_BYTES);
    int r = engine_call(engine,
                        &(struct http_request){.method = "GET",
                                               .path = path,
                                               .sink = on_bytes,
                                               .sink_data = &follower,
                                               .started = on_header,
                                               .started_data = &follower,
                                               .cancel = cancel},
                        NULL, why);
    buf_done(&follower.line);
    return r < 0 ? r : fail_set(why, ECONNRESET, "the engine ended its stream of events");
}
