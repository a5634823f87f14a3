/* SPDX-License-Identifier: MIT */
/* The engine's images: /images.  Errors as engine/engine.h says. */
#ifndef DVOLFS_ENGINE_IMAGES_H
#define DVOLFS_ENGINE_IMAGES_H

#include "engine/engine.h"

#include <stddef.h>

/*
 * Makes the image repo:tag whose root file system is the given tar, with the
 * label key=value (POST /images/create?fromSrc=-: nothing is pulled).  Where it
 * exists already, the tag moves to the new one.
 */
must_check int engine_image_import(struct engine *engine, const char *repo, const char *tag,
                                   const char *label, const void *tar, size_t tar_bytes,
                                   struct cancel *cancel, struct fail *why);

/* Removes all images that have the label (key=value) and no name, and that no container
 * refers to. */
must_check int engine_images_prune(struct engine *engine, const char *label, struct cancel *cancel,
                                   struct fail *why);

/* Removes an image.  -ENOENT: gone already; -EBUSY: a container refers to it. */
must_check int engine_image_remove(struct engine *engine, const char *reference,
                                   struct cancel *cancel, struct fail *why);

#endif
