/* SPDX-License-Identifier: MIT */
#include "engine/volumes.h"

#include "engine/json.h"

#include <stdio.h>

void engine_volume_list_done(struct engine_volume_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].name);
        free(list->items[i].json);
    }
    free(list->items);
    *list = (struct engine_volume_list){0};
}

static int read_volume(const cJSON *object, struct engine_volume *ret)
{
    *ret = (struct engine_volume){.name = json_string_copy(object, "Name"),
                                  .json = cJSON_PrintUnformatted(object)};
    return ret->name && ret->json ? 0 : -ENOMEM;
}

static int read_list(const cJSON *array, struct engine_volume_list *list)
{
    size_t count = (size_t)cJSON_GetArraySize(array);
    list->items = calloc(count ? count : 1, sizeof(*list->items));
    if (!list->items)
        return -ENOMEM;
    const cJSON *object;
    cJSON_ArrayForEach (object, array) {
        /* Counted first, so that a half-read one is freed too. */
        int r = read_volume(object, &list->items[list->count++]);
        if (r < 0)
            return r;
    }
    return 0;
}

int engine_volume_list(struct engine *engine, struct cancel *cancel,
                       struct engine_volume_list *ret_list, struct fail *why)
{
    cJSON *json cleanup_json = NULL;
    int r = json_get(engine, "/volumes", "listing volumes", cancel, &json, why);
    if (r < 0)
        return r;
    if (!cJSON_IsObject(json))
        return fail_set(why, EIO, "the engine's list of volumes makes no sense");
    struct engine_volume_list list = {0};
    r = read_list(cJSON_GetObjectItemCaseSensitive(json, "Volumes"), &list);
    if (r < 0) {
        engine_volume_list_done(&list);
        return fail_errno(why, -r, "listing volumes");
    }
    *ret_list = list;
    return 0;
}

int engine_volume_label(struct engine *engine, const char *name, const char *label,
                        struct cancel *cancel, char **ret_value, struct fail *why)
{
    struct http_response response cleanup_http_response = {0};
    int r = engine_command(engine, "GET", "/volumes/%s", name, cancel, &response, why);
    if (r < 0)
        return r;
    cJSON *json cleanup_json = json_parse(buf_string(&response.body), response.body.len);
    if (!cJSON_IsObject(json))
        return fail_set(why, EIO, "the engine's answer on volume %s is not JSON", name);
    const char *value = json_string(cJSON_GetObjectItemCaseSensitive(json, "Labels"), label);
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return fail_errno(why, ENOMEM, "volume %s", name);
    *ret_value = copy;
    return 0;
}

int engine_volume_remove(struct engine *engine, const char *name, struct cancel *cancel,
                         struct fail *why)
{
    return engine_command(engine, "DELETE", "/volumes/%s", name, cancel, NULL, why);
}

/* The body of a creation, malloc'ed; NULL without memory. */
static char *creation_json(const char *name, const char *label_key, const char *label_value)
{
    cJSON *object cleanup_json = cJSON_CreateObject();
    bool ok =
        cJSON_AddStringToObject(object, "Name", name) &&
        cJSON_AddStringToObject(object, "Driver", "local") &&
        cJSON_AddStringToObject(cJSON_AddObjectToObject(object, "Labels"), label_key, label_value);
    return ok ? cJSON_PrintUnformatted(object) : NULL;
}

int engine_volume_create(struct engine *engine, const char *name, const char *label_key,
                         const char *label_value, struct cancel *cancel, char **ret_mountpoint,
                         struct fail *why)
{
    cleanup_free char *body = creation_json(name, label_key, label_value);
    if (!body)
        return fail_errno(why, ENOMEM, "volume %s", name);
    cJSON *json cleanup_json = NULL;
    int r = json_post(engine, "/volumes/create", body, cancel, &json, why);
    if (r < 0)
        return r;
    char *mountpoint = json_string_copy(json, "Mountpoint");
    if (!mountpoint)
        return fail_errno(why, ENOMEM, "volume %s", name);
    *ret_mountpoint = mountpoint;
    return 0;
}
