/* SPDX-License-Identifier: MIT */
#include "engine/json.h"

int json_get(struct engine *engine, const char *path, const char *what, struct cancel *cancel,
             cJSON **ret_json, struct fail *why)
{
    struct http_response response cleanup_http_response = {0};
    int r = engine_call(
        engine,
        &(struct http_request){
            .method = "GET", .path = path, .deadline_ms = ENGINE_DEADLINE_MS, .cancel = cancel},
        &response, why);
    if (r < 0)
        return fail_prefix(why, r, "%s", what);
    cJSON *json = json_parse(buf_string(&response.body), response.body.len);
    if (!json)
        return fail_set(why, EIO, "%s: the engine's answer is not JSON", what);
    *ret_json = json;
    return 0;
}
