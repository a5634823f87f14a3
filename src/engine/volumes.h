/* SPDX-License-Identifier: MIT */
/* The engine's volumes: /volumes.  Errors as engine/engine.h says. */
#ifndef DVOLFS_ENGINE_VOLUMES_H
#define DVOLFS_ENGINE_VOLUMES_H

#include "engine/engine.h"

#include <stddef.h>

struct engine_volume {
    char *name;
    char *json; /* the object as the engine gave it, for volume.json */
};

struct engine_volume_list {
    struct engine_volume *items;
    size_t count;
};

/* All volumes, in no order.  The caller calls engine_volume_list_done. */
must_check int engine_volume_list(struct engine *engine, struct cancel *cancel,
                                  struct engine_volume_list *ret_list, struct fail *why);
void engine_volume_list_done(struct engine_volume_list *list);

/*
 * The value of a volume's label, malloc'ed, or NULL in *ret_value where it has
 * no such label.  -ENOENT: no such volume.
 */
must_check int engine_volume_label(struct engine *engine, const char *name, const char *label,
                                   struct cancel *cancel, char **ret_value, struct fail *why);

/*
 * Creates a volume of the local driver with the label (key=value in two parts),
 * and returns where it lies on the engine's side, malloc'ed.
 */
must_check int engine_volume_create(struct engine *engine, const char *name, const char *label_key,
                                    const char *label_value, struct cancel *cancel,
                                    char **ret_mountpoint, struct fail *why);

/* Removes a volume.  -ENOENT, -EBUSY: a container refers to it. */
must_check int engine_volume_remove(struct engine *engine, const char *name, struct cancel *cancel,
                                    struct fail *why);

#endif
