/* SPDX-License-Identifier: MIT */
/* The engine's containers: /containers.  Errors as engine/engine.h says. */
#ifndef DVOLFS_ENGINE_CONTAINERS_H
#define DVOLFS_ENGINE_CONTAINERS_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a container has mounted; volume is "" for a bind mount or tmpfs. */
struct engine_mount {
    char *volume;
    char *destination;
    bool writable;
};

struct engine_container {
    char *id;
    char *name;        /* without the leading '/' */
    char *image;       /* as it was named when the container was made, or its id */
    char *state;       /* created, running, paused, restarting, removing, exited, dead */
    char *label;       /* the value of the label asked for, "" without it */
    int64_t created_s; /* seconds since 1970, the engine's clock */
    struct engine_mount *mounts;
    size_t mount_count;
};

struct engine_container_list {
    struct engine_container *items;
    size_t count;
};

/*
 * All containers, running or not, in no order; with label_only just those that
 * carry the label.  `label` of each is its value.  Answered from memory by the
 * engine, even while a container is locked.  The caller calls _done.
 */
must_check int engine_container_list(struct engine *engine, const char *label, bool label_only,
                                     struct cancel *cancel, struct engine_container_list *ret_list,
                                     struct fail *why);
void engine_container_list_done(struct engine_container_list *list);

/*
 * Creates a container from the JSON of POST /containers/create and returns its
 * id, malloc'ed.  -ENOENT: no such image.
 */
must_check int engine_container_create(struct engine *engine, const char *json,
                                       struct cancel *cancel, char **ret_id, struct fail *why);

/* Starts a container.  -EINVAL, -EIO: it cannot be; the engine says why. */
must_check int engine_container_start(struct engine *engine, const char *id, struct cancel *cancel,
                                      struct fail *why);

/* Removes a container, ending it if it runs.  -ENOENT: gone already. */
must_check int engine_container_remove(struct engine *engine, const char *id, struct cancel *cancel,
                                       struct fail *why);

#endif
