/* SPDX-License-Identifier: MIT */
#include "engine/images.h"

#include <stdio.h>

int engine_image_import(struct engine *engine, const char *repo, const char *tag, const char *label,
                        const void *tar, size_t tar_bytes, struct cancel *cancel, struct fail *why)
{
    cleanup_free char *change = NULL;
    if (asprintf(&change, "LABEL %s", label) < 0) {
        change = NULL;
        return fail_errno(why, ENOMEM, "image %s", repo);
    }
    cleanup_free char *escaped = engine_escape(change);
    cleanup_free char *path = NULL;
    if (!escaped || asprintf(&path, "/images/create?fromSrc=-&repo=%s&tag=%s&changes=%s", repo, tag,
                             escaped) < 0) {
        path = NULL;
        return fail_errno(why, ENOMEM, "image %s", repo);
    }
    return engine_call(engine,
                       &(struct http_request){.method = "POST",
                                              .path = path,
                                              .content_type = "application/x-tar",
                                              .body = tar,
                                              .body_bytes = tar_bytes,
                                              .deadline_ms = ENGINE_DEADLINE_MS,
                                              .cancel = cancel},
                       NULL, why);
}

int engine_image_remove(struct engine *engine, const char *reference, struct cancel *cancel,
                        struct fail *why)
{
    return engine_command(engine, "DELETE", "/images/%s", reference, cancel, NULL, why);
}

int engine_images_prune(struct engine *engine, const char *label, struct cancel *cancel,
                        struct fail *why)
{
    cleanup_free char *filters = NULL;
    if (asprintf(&filters, "{\"dangling\":[\"true\"],\"label\":[\"%s\"]}", label) < 0) {
        filters = NULL;
        return fail_errno(why, ENOMEM, "images");
    }
    return engine_command(engine, "POST", "/images/prune?filters=%s", filters, cancel, NULL, why);
}
