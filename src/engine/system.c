/* SPDX-License-Identifier: MIT */
#include "engine/system.h"

#include "engine/json.h"

void engine_info_done(struct engine_info *info)
{
    free(info->server_version);
    free(info->kernel);
    free(info->hostname);
    free(info->root_dir);
    *info = (struct engine_info){0};
}

int engine_info(struct engine *engine, struct cancel *cancel, struct engine_info *ret_info,
                struct fail *why)
{
    cJSON *json cleanup_json = NULL;
    int r = json_get(engine, "/info", "asking about the engine", cancel, &json, why);
    if (r < 0)
        return r;
    if (!cJSON_IsObject(json))
        return fail_set(why, EIO, "the engine's word on itself makes no sense");
    struct engine_info info = {.server_version = json_string_copy(json, "ServerVersion"),
                               .kernel = json_string_copy(json, "KernelVersion"),
                               .hostname = json_string_copy(json, "Name"),
                               .root_dir = json_string_copy(json, "DockerRootDir")};
    if (!info.server_version || !info.kernel || !info.hostname || !info.root_dir) {
        engine_info_done(&info);
        return fail_errno(why, ENOMEM, "asking about the engine");
    }
    *ret_info = info;
    return 0;
}
