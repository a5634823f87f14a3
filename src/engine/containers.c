/* SPDX-License-Identifier: MIT */
#include "engine/containers.h"

#include "engine/json.h"

#include <stdio.h>

static void container_done(struct engine_container *container)
{
    for (size_t i = 0; i < container->mount_count; i++) {
        free(container->mounts[i].volume);
        free(container->mounts[i].destination);
    }
    free(container->mounts);
    free(container->id);
    free(container->name);
    free(container->image);
    free(container->state);
    free(container->label);
}

void engine_container_list_done(struct engine_container_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        container_done(&list->items[i]);
    free(list->items);
    *list = (struct engine_container_list){0};
}

static int read_mounts(const cJSON *array, struct engine_container *container)
{
    size_t count = (size_t)cJSON_GetArraySize(array);
    container->mounts = calloc(count ? count : 1, sizeof(*container->mounts));
    if (!container->mounts)
        return -ENOMEM;
    const cJSON *object;
    cJSON_ArrayForEach (object, array) {
        struct engine_mount *mount = &container->mounts[container->mount_count++];
        const char *type = json_string(object, "Type");
        bool is_volume = type && strcmp(type, "volume") == 0;
        mount->volume = is_volume ? json_string_copy(object, "Name") : strdup("");
        mount->destination = json_string_copy(object, "Destination");
        mount->writable = json_bool(object, "RW");
        if (!mount->volume || !mount->destination)
            return -ENOMEM;
    }
    return 0;
}

static char *first_name(const cJSON *object)
{
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(object, "Names"), 0);
    const char *name = cJSON_IsString(first) ? first->valuestring : "";
    return strdup(name[0] == '/' ? name + 1 : name);
}

static int read_container(const cJSON *object, const char *label, struct engine_container *ret)
{
    ret->id = json_string_copy(object, "Id");
    ret->name = first_name(object);
    ret->image = json_string_copy(object, "Image");
    ret->state = json_string_copy(object, "State");
    ret->label = json_string_copy(cJSON_GetObjectItemCaseSensitive(object, "Labels"), label);
    const cJSON *created = cJSON_GetObjectItemCaseSensitive(object, "Created");
    ret->created_s = cJSON_IsNumber(created) ? (int64_t)created->valuedouble : 0;
    if (!ret->id || !ret->name || !ret->image || !ret->state || !ret->label)
        return -ENOMEM;
    return read_mounts(cJSON_GetObjectItemCaseSensitive(object, "Mounts"), ret);
}

static int read_list(const cJSON *array, const char *label, struct engine_container_list *list)
{
    size_t count = (size_t)cJSON_GetArraySize(array);
    list->items = calloc(count ? count : 1, sizeof(*list->items));
    if (!list->items)
        return -ENOMEM;
    const cJSON *object;
    cJSON_ArrayForEach (object, array) {
        int r = read_container(object, label, &list->items[list->count++]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The path with the label filter, or NULL without memory. */
static char *list_path(const char *label, bool label_only)
{
    if (!label_only)
        return strdup("/containers/json?all=1");
    cleanup_free char *filter = NULL;
    if (asprintf(&filter, "{\"label\":[\"%s\"]}", label) < 0) {
        filter = NULL;
        return NULL;
    }
    cleanup_free char *escaped = engine_escape(filter);
    char *path = NULL;
    if (!escaped || asprintf(&path, "/containers/json?all=1&filters=%s", escaped) < 0)
        return NULL;
    return path;
}

int engine_container_list(struct engine *engine, const char *label, bool label_only,
                          struct cancel *cancel, struct engine_container_list *ret_list,
                          struct fail *why)
{
    cleanup_free char *path = list_path(label, label_only);
    if (!path)
        return fail_errno(why, ENOMEM, "listing containers");
    cJSON *json cleanup_json = NULL;
    int r = json_get(engine, path, "listing containers", cancel, &json, why);
    if (r < 0)
        return r;
    if (!cJSON_IsArray(json))
        return fail_set(why, EIO, "the engine's list of containers makes no sense");
    struct engine_container_list list = {0};
    r = read_list(json, label, &list);
    if (r < 0) {
        engine_container_list_done(&list);
        return fail_errno(why, -r, "listing containers");
    }
    *ret_list = list;
    return 0;
}

int engine_container_create(struct engine *engine, const char *json, struct cancel *cancel,
                            char **ret_id, struct fail *why)
{
    cJSON *answer cleanup_json = NULL;
    int r = json_post(engine, "/containers/create", json, cancel, &answer, why);
    if (r < 0)
        return r;
    const char *id = json_string(answer, "Id");
    if (!id)
        return fail_set(why, EIO, "the engine made a container and did not say which");
    char *copy = strdup(id);
    if (!copy)
        return fail_errno(why, ENOMEM, "container");
    *ret_id = copy;
    return 0;
}

int engine_container_start(struct engine *engine, const char *id, struct cancel *cancel,
                           struct fail *why)
{
    return engine_command(engine, "POST", "/containers/%s/start", id, cancel, NULL, why);
}

int engine_container_remove(struct engine *engine, const char *id, struct cancel *cancel,
                            struct fail *why)
{
    /* v=0: never a volume with it, not even an anonymous one. */
    return engine_command(engine, "DELETE", "/containers/%s?force=1&v=0", id, cancel, NULL, why);
}
