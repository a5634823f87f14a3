/* SPDX-License-Identifier: MIT */
/*
 * Contents of a container as a tar stream: /containers/{id}/archive.
 *
 * The engine holds the container's lock for the whole transfer (moby
 * daemon/archive_unix.go): use a container of our own, one for each stream.
 * Errors as engine/engine.h says.
 */
#ifndef DVOLFS_ENGINE_ARCHIVE_H
#define DVOLFS_ENGINE_ARCHIVE_H

#include "engine/engine.h"

/*
 * Streams what is at path into sink; "DIR/." gives members "./", "./a", ...
 * Success says that HTTP ended well, not that the tar in it is whole: see
 * tar/scan.h.
 */
must_check int engine_archive_get(struct engine *engine, const char *container, const char *path,
                                  http_sink_fn *sink, void *sink_data, struct cancel *cancel,
                                  struct fail *why);

/*
 * Unpacks the plain tar that source gives below the directory path.  Not
 * atomic: what was unpacked before an error stays.  Answers only when all of it
 * is unpacked, which on a slow disk is long after the last byte was taken, so
 * only the sending is watched for silence; cancel ends the wait.
 * The engine has no status for a full disk: its message is recognised, -ENOSPC.
 */
must_check int engine_archive_put(struct engine *engine, const char *container, const char *path,
                                  http_source_fn *source, void *source_data, struct cancel *cancel,
                                  struct fail *why);

#endif
