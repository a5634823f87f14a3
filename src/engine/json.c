/* SPDX-License-Identifier: MIT */
#include "engine/json.h"

static int ask(struct engine *engine, const struct http_request *request, cJSON **ret_json,
               struct fail *why)
{
    struct http_response response cleanup_http_response = {0};
    int r = engine_call(engine, request, &response, why);
    if (r < 0)
        return r;
    cJSON *json = json_parse(buf_string(&response.body), response.body.len);
    if (!json)
        return fail_set(why, EIO, "the engine's answer is not JSON");
    *ret_json = json;
    return 0;
}

int json_get(struct engine *engine, const char *path, const char *what, struct cancel *cancel,
             cJSON **ret_json, struct fail *why)
{
    struct http_request request = {
        .method = "GET", .path = path, .deadline_ms = ENGINE_DEADLINE_MS, .cancel = cancel};
    int r = ask(engine, &request, ret_json, why);
    return r < 0 ? fail_prefix(why, r, "%s", what) : 0;
}

int json_post(struct engine *engine, const char *path, const char *body, struct cancel *cancel,
              cJSON **ret_json, struct fail *why)
{
    struct http_request request = {.method = "POST",
                                   .path = path,
                                   .content_type = "application/json",
                                   .body = body,
                                   .body_bytes = strlen(body),
                                   .deadline_ms = ENGINE_DEADLINE_MS,
                                   .cancel = cancel};
    return ask(engine, &request, ret_json, why);
}
