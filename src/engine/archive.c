/* SPDX-License-Identifier: MIT */
#include "engine/archive.h"

#include <stdio.h>
#include <string.h>

/* After the last byte of a PUT the engine may have seconds of writing to do. */
#define PUT_SILENCE_MS (5 * ENGINE_SILENCE_MS)

static char *archive_path(const char *container, const char *path)
{
    cleanup_free char *id = engine_escape(container);
    cleanup_free char *escaped = engine_escape(path);
    char *result = NULL;
    if (!id || !escaped || asprintf(&result, "/containers/%s/archive?path=%s", id, escaped) < 0)
        return NULL;
    return result;
}

int engine_archive_get(struct engine *engine, const char *container, const char *path,
                       http_sink_fn *sink, void *sink_data, struct cancel *cancel, struct fail *why)
{
    cleanup_free char *url = archive_path(container, path);
    if (!url)
        return fail_errno(why, ENOMEM, "archive");
    return engine_call(engine,
                       &(struct http_request){.method = "GET",
                                              .path = url,
                                              .sink = sink,
                                              .sink_data = sink_data,
                                              .silence_ms = ENGINE_SILENCE_MS,
                                              .cancel = cancel},
                       NULL, why);
}

int engine_archive_put(struct engine *engine, const char *container, const char *path,
                       http_source_fn *source, void *source_data, struct cancel *cancel,
                       struct fail *why)
{
    cleanup_free char *url = archive_path(container, path);
    if (!url)
        return fail_errno(why, ENOMEM, "archive");
    struct fail inner = FAIL_INIT;
    int r = engine_call(engine,
                        &(struct http_request){.method = "PUT",
                                               .path = url,
                                               .content_type = "application/x-tar",
                                               .source = source,
                                               .source_data = source_data,
                                               .silence_ms = PUT_SILENCE_MS,
                                               .cancel = cancel},
                        NULL, &inner);
    if (r < 0 && strstr(inner.text, "no space left on device"))
        r = -ENOSPC;
    if (r < 0 && why)
        *why = inner;
    return r;
}
