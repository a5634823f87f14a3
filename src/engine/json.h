/* SPDX-License-Identifier: MIT */
/* Reading the engine's answers: absent, null and of-another-type are all NULL or 0. */
#ifndef DVOLFS_ENGINE_JSON_H
#define DVOLFS_ENGINE_JSON_H

#include "engine/engine.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <string.h>

DEFINE_CLEANUP(cleanup_json_impl, cJSON, cJSON_Delete)
#define cleanup_json cleanup(cleanup_json_impl)

/* NULL where the text is no JSON or memory is short.  To be freed with cJSON_Delete. */
static inline cJSON *json_parse(const char *text, size_t len)
{
    return cJSON_ParseWithLength(text, len);
}

/*
 * What GET path answers, to be freed with cJSON_Delete.  `what` names the call in
 * why.  Errors of engine_call; -EIO: not JSON.  Blocks.
 */
must_check int json_get(struct engine *engine, const char *path, const char *what,
                        struct cancel *cancel, cJSON **ret_json, struct fail *why);

/* The same for POST path with the JSON text body. */
must_check int json_post(struct engine *engine, const char *path, const char *body,
                         struct cancel *cancel, cJSON **ret_json, struct fail *why);

/* A string owned by the object, or NULL. */
static inline const char *json_string(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static inline bool json_bool(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

/* A copy of a string member, "" where there is none; NULL only without memory. */
static inline char *json_string_copy(const cJSON *object, const char *key)
{
    const char *string = json_string(object, key);
    return strdup(string ? string : "");
}

#endif
