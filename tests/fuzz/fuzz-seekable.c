/* SPDX-License-Identifier: MIT */
/*
 * store/seekable.h: the input is changes to a good file, four bytes each (three where,
 * one what), after one byte whose low bit takes the seal off, so that changes of the
 * table get further.  What is read is what its checksums say, or an error.
 */
#include "store/codec.h"
#include "store/seekable.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define FRAMES 6
#define FRAME_BYTES ((size_t)1500)
#define FILE_MAX_BYTES ((size_t)1 << 16)
/* More would be asked of the machine, not of the code. */
#define READ_MAX_BYTES ((uint32_t)1 << 22)
#define FOOTER_BYTES 9
#define ITEM_BYTES 12
#define SEAL_BYTES 24

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what)
{
    if (!what)
        abort();
}

static uint8_t good[FILE_MAX_BYTES];
static size_t good_bytes;
static size_t seal_at;

static void add_frame(struct seekable_writer *writer, void *context, int number)
{
    static char frame[FRAME_BYTES * 2 + 1024];
    char plain[FRAME_BYTES];
    uint32_t checksum;
    for (size_t i = 0; i < sizeof(plain); i++)
        plain[i] = (char)(i * i / 7 + (size_t)number);
    ssize_t n = codec_zstd.compress(context, plain, sizeof(plain), frame, sizeof(frame), &checksum);
    require(n > 0 &&
            seekable_add_frame(writer, frame, (uint32_t)n, sizeof(plain), checksum, NULL) == 0);
}

static void make_good(void)
{
    uint8_t sha256[SEEKABLE_SHA256_BYTES];
    struct stat st;
    struct seekable *seekable cleanup_seekable = NULL;
    int fd cleanup_close = memfd_create("good", MFD_CLOEXEC);
    require(fd >= 0);
    struct seekable_writer *writer cleanup_seekable_writer = seekable_writer_new(fd, 0);
    void *context = codec_zstd.open(3);
    require(writer && context && codec_zstd.bound(FRAME_BYTES) <= FRAME_BYTES * 2 + 1024);
    for (int i = 0; i < FRAMES; i++)
        add_frame(writer, context, i);
    codec_zstd.close(context);
    require(seekable_finish(writer, sha256, NULL) == 0 && fstat(fd, &st) == 0);
    require(seekable_open(fd, &seekable, NULL) == 0);
    good_bytes = (size_t)st.st_size;
    seal_at = good_bytes - FOOTER_BYTES - seekable_count(seekable) * ITEM_BYTES - 8 - SEAL_BYTES;
    require(good_bytes <= sizeof(good) && pread(fd, good, good_bytes, 0) == (ssize_t)good_bytes);
}

static int open_changed(const uint8_t *data, size_t size)
{
    static uint8_t changed[FILE_MAX_BYTES];
    int fd = memfd_create("changed", MFD_CLOEXEC);
    memcpy(changed, good, good_bytes);
    if (size > 0 && (data[0] & 1))
        changed[seal_at + 8] = 'x';
    for (size_t i = 1; i + 4 <= size; i += 4) {
        size_t at = (size_t)data[i] << 16 | (size_t)data[i + 1] << 8 | data[i + 2];
        changed[at % good_bytes] = data[i + 3];
    }
    require(fd >= 0 && pwrite(fd, changed, good_bytes, 0) == (ssize_t)good_bytes);
    return fd;
}

/* One frame, whose bytes follow those before it: whether it could be read. */
static bool read_frame(const struct seekable *seekable, size_t number, uint64_t *offset)
{
    struct seekable_frame frame;
    seekable_frame(seekable, number, &frame);
    require(frame.offset == *offset && frame.file_offset + frame.file_bytes <= good_bytes);
    *offset += frame.bytes;
    if (frame.bytes == 0 || frame.bytes > READ_MAX_BYTES)
        return false;
    require(seekable_find(seekable, frame.offset) == number);
    require(seekable_find(seekable, frame.offset + frame.bytes - 1) == number);
    char *buffer = malloc(frame.bytes);
    require(buffer);
    int r = seekable_read(seekable, number, buffer, NULL);
    require(r == 0 || r == -EBADMSG || r == -EOVERFLOW || r == -ENOMEM);
    if (r == 0 && seekable_has_checksums(seekable))
        require((uint32_t)XXH64(buffer, frame.bytes, 0) == frame.checksum);
    free(buffer);
    return r == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t offset = 0;
    size_t sound = 0;
    if (!good_bytes)
        make_good();
    int fd cleanup_close = open_changed(data, size);
    struct seekable *seekable cleanup_seekable = NULL;
    int r = seekable_open(fd, &seekable, NULL);
    require(r == 0 || r == -ENODATA || r == -EBADMSG || r == -EOVERFLOW || r == -ENOMEM);
    if (r < 0)
        return 0;
    for (size_t i = 0; i < seekable_count(seekable); i++)
        sound += read_frame(seekable, i, &offset);
    require(offset == seekable_total_bytes(seekable));
    require(size >= 5 || sound == FRAMES); /* nothing was changed that counts */
    (void)seekable_seal(seekable);
    return 0;
}
