/* SPDX-License-Identifier: MIT */
/*
 * Snapshots of a directory, one after another, with one change between two of them: each
 * must be, byte for byte, what it is in a store that has no other.
 */
#include "scratch.h"

#include "base/fd.h"
#include "job/take.h"
#include "store/frames.h"
#include "volume/local.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#define KIB ((size_t)1024)
#define MIB (KIB * KIB)
#define LEVEL 3
/* Of small files, each with a directory of its own kind of name: a frame has several. */
#define DIRECTORIES 40
#define FILES 12

static int leave(void **state)
{
    (void)try_shell("umount -l %s/disk 2>/dev/null", test_dir);
    return leave_test_dir(state);
}

/* ---- the tree ------------------------------------------------------------------------ */

/* Bytes that compress, but not to nothing, and that tell where they are from. */
static void fill(char *data, size_t bytes, uint64_t number)
{
    uint64_t random = number * 77 + 1;
    for (size_t i = 0; i < bytes; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        data[i] = (char)(i / 64 % 2 ? random >> 56 : number);
    }
}

static void write_at(const char *path, const void *data, size_t bytes, uint64_t offset)
{
    cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_pwrite_all(fd, data, bytes, offset), 0);
}

static void make_file(const char *path, size_t bytes, uint64_t number)
{
    cleanup_free char *data = malloc(bytes + 1);
    assert_non_null(data);
    fill(data, bytes, number);
    write_at(path, data, bytes, 0);
}

static void make_small_files(void)
{
    char path[64];
    for (uint64_t i = 0; i < DIRECTORIES; i++) {
        (void)snprintf(path, sizeof(path), "tree/d%02u", (unsigned)i);
        assert_int_equal(mkdir(path, 0755), 0);
        for (uint64_t k = 0; k < FILES; k++) {
            (void)snprintf(path, sizeof(path), "tree/d%02u/f%02u", (unsigned)i, (unsigned)k);
            make_file(path, 1000 + (i * 7919 + k * 104729) % (60 * KIB), i * 100 + k);
        }
    }
}

static void make_tree(void)
{
    assert_int_equal(mkdir("tree", 0755), 0);
    make_small_files();
    make_file("tree/large", 5 * MIB + 12345, 1);
    make_file("tree/mapped", 2 * MIB, 2);
    make_file("tree/rewritten", 3 * MIB, 3);
    write_at("tree/sparse", "begin", 5, 0);
    write_at("tree/sparse", "end", 3, 64 * MIB);
    assert_int_equal(link("tree/d03/f03", "tree/d34/link"), 0);
    assert_int_equal(link("tree/d07/f09", "tree/d36/link"), 0);
    assert_int_equal(symlink("../large", "tree/d04/symlink"), 0);
    assert_int_equal(mkfifo("tree/d05/fifo", 0600), 0);
    assert_int_equal(setxattr("tree/d24/f06", "user.a", "1", 1, 0), 0);
}

/* The time by which everything so far was changed; then waits until that is long ago. */
static void wait_until_settled(void)
{
    struct timespec now, end;
    (void)clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += TAKE_RECENT_MS / 1000;
    end.tv_nsec += 20000000; /* ticks of the clock that ctimes are of */
    do {
        (void)clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &end, NULL);
        (void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec <= end.tv_nsec));
}

/* ---- taking ------------------------------------------------------------------------------ */

/* The ways of the directory, but that openings are counted, and something may be done
 * before the first. */
static struct contents_ops counting;
static const struct contents_ops *real;
static atomic_uint opened;
static void (*before_first)(void);
static pthread_mutex_t first_lock = PTHREAD_MUTEX_INITIALIZER;

/* Two threads open: the one that comes second waits until what is to be done is done. */
static void note_opening(unsigned count)
{
    scoped_lock(&first_lock);
    if (atomic_fetch_add(&opened, count) == 0 && before_first)
        before_first();
}

static int counting_open(struct contents *contents, const char *path, uint64_t dev, uint64_t id,
                         struct cancel *cancel, struct contents_file **ret_file)
{
    note_opening(1);
    return real->open(contents, path, dev, id, cancel, ret_file);
}

static void counting_open_many(struct contents *contents, struct contents_want *wants, size_t count,
                               struct cancel *cancel)
{
    note_opening((unsigned)count);
    real->open_many(contents, wants, count, cancel);
}

static struct contents *open_volume(void)
{
    struct contents *contents = local_contents_at(open("tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    assert_non_null(contents);
    real = contents->ops;
    counting = *real;
    counting.open = counting_open;
    counting.open_many = counting_open_many;
    contents->ops = &counting;
    atomic_store(&opened, 0);
    return contents;
}

static int try_take(const char *dir, const char *name, struct cancel *cancel,
                    struct take_result *ret_result, struct fail *why)
{
    struct contents *contents cleanup_contents = open_volume();
    struct store *store;
    assert_int_equal(store_open(dir, &store, why), 0);
    struct snapshot_cache *cache = snapshot_cache_new(MIB);
    assert_non_null(cache);
    struct job job;
    job_begin(&job, NULL, "take", "volume", name);
    struct take_conf conf = {.store = store,
                             .cache = cache,
                             .volume = "volume",
                             .name = name,
                             .consistency = "live",
                             .taken_s = 1700000000,
                             .level = LEVEL,
                             .job = &job};
    int r = take_contents(&conf, contents, cancel, ret_result, why);
    if (r == 0)
        assert_int_equal(job.done_bytes, job.total_bytes);
    job_end(&job);
    snapshot_cache_free(cache);
    store_close(store);
    return r;
}

static struct take_result take_in(const char *dir, const char *name)
{
    struct take_result result = {0};
    struct fail why = FAIL_INIT;
    int r = try_take(dir, name, NULL, &result, &why);
    if (r < 0)
        fail_msg("%s: %s", name, fail_text(&why, r));
    return result;
}

/* Nothing is left of what was not finished. */
static void check_nothing_left(const char *dir)
{
    assert_int_equal(try_shell("test -z \"$(ls -A %s/.new)\"", dir), 0);
}

/* ---- indexes ----------------------------------------------------------------------------- */

/* Of index_get: one line that tells all. */
static int tell_entry(void *data, const struct index_entry *entry)
{
    const struct file *file = &entry->file;
    return buf_printf(
        data,
        "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %s %o %u %u:%u %" PRIu64 " %" PRId64
        ".%u %u,%u %s %zu %08" PRIx64 " %zu\n",
        entry->id, entry->parent, entry->target, entry->offset, file->name, file->stat.mode,
        file->stat.nlink, file->stat.uid, file->stat.gid, file->stat.size_bytes, file->stat.mtime.s,
        file->stat.mtime.ns, file->stat.rdev_major, file->stat.rdev_minor, file->link_target,
        file->xattr_bytes, frames_hash(file->xattrs, file->xattr_bytes), file->extent_count);
}

static int tell_key(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES])
{
    return buf_printf(data, "%" PRIu64 " %08" PRIx64 "\n", number,
                      frames_hash((const char *)key, INDEX_KEY_BYTES));
}

static void tell_index(const char *dir, const char *name, bool with_keys, struct buf *ret_text)
{
    char path[128];
    struct index *index cleanup_index = NULL;
    struct index_about about;
    buf_init(ret_text, 16 * MIB);
    (void)snprintf(path, sizeof(path), "%s/volume/%s.index", dir, name);
    assert_int_equal(index_open(path, &index, NULL), 0);
    index_about(index, &about);
    assert_int_equal(buf_printf(ret_text, "%" PRIu64 " %" PRIx64 " %" PRId64 " %s %" PRIu64 "\n",
                                about.archive_bytes, about.seal, about.taken_s, about.consistency,
                                about.entries),
                     0);
    assert_int_equal(buf_add(ret_text, about.sha256, 32), 0);
    for (uint64_t id = 0; id < about.entries; id++)
        assert_int_equal(index_get(index, id, tell_entry, ret_text, NULL), 0);
    if (with_keys)
        assert_int_equal(index_frames(index, tell_key, ret_text, NULL), 0);
}

/* But for the keys of what changed shortly before the first of the two. */
static void check_same_index(const char *name, bool with_keys)
{
    struct buf kept cleanup_buf;
    struct buf alone cleanup_buf;
    tell_index("store", name, with_keys, &kept);
    tell_index("alone", name, with_keys, &alone);
    assert_int_equal(kept.len, alone.len);
    assert_memory_equal(kept.data, alone.data, kept.len);
}

/* Takes one in the store that has others, and in one that has none. */
static struct take_result take_both(const char *name)
{
    struct take_result result = take_in("store", name);
    unsigned openings = atomic_load(&opened);
    assert_int_equal(try_shell("rm -rf alone"), 0);
    struct take_result full = take_in("alone", name);
    assert_int_equal(full.taken_frames, 0);
    assert_int_equal(result.frames, full.frames);
    assert_int_equal(result.bytes, full.bytes);
    if (try_shell("cmp store/volume/%s.tar.zst alone/volume/%s.tar.zst", name, name))
        fail_msg("%s is not what it is alone", name);
    check_same_index(name, result.read_bytes == 0);
    check_nothing_left("store");
    atomic_store(&opened, openings);
    return result;
}

/* It is the tree, for tools that know nothing of us. */
static void check_by_tools(const char *name, const char *link_directory)
{
    assert_int_equal(
        try_shell("rm -rf out && mkdir out && zstd -dcq store/volume/%s.tar.zst >out.tar", name),
        0);
    assert_int_equal(try_shell("tar -C out --xattrs --xattrs-include='user.*' -xf out.tar"), 0);
    assert_int_equal(try_shell("diff -r --no-dereference --exclude=fifo tree out"), 0);
    assert_int_equal(
        try_shell("test out/d03/f03 -ef out/%s/link && test -p out/d05/fifo", link_directory), 0);
    assert_int_equal(try_shell("rm -rf out out.tar"), 0);
}

/* ---- changes that leave no trace but a ctime ------------------------------------------------ */

static void restore_mtime(const char *path, const struct stat *st)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Of the directory of a file whose name is to change. */
static struct stat directory_of(const char *path, char directory[64])
{
    struct stat st;
    (void)snprintf(directory, 64, "%.*s", (int)(strrchr(path, '/') - path), path);
    assert_int_equal(stat(directory, &st), 0);
    return st;
}

/* Another at each call. */
static void write_text(const char *path, uint64_t offset)
{
    static unsigned number;
    char text[16];
    struct stat st;
    (void)snprintf(text, sizeof(text), "change %06u", ++number);
    assert_int_equal(stat(path, &st), 0);
    write_at(path, text, strlen(text), offset);
    restore_mtime(path, &st);
}

static void same_size_and_mtime(void)
{
    write_text("tree/d01/f01", 500);
}

static void within_a_large_file(void)
{
    write_text("tree/rewritten", MIB + MIB / 2);
}

static char *mapping;

static void stored_to_a_mapping(void)
{
    mapping[MIB + 77] ^= 1;
}

/* Another file of the same size and time. */
static void make_twin(const char *path, const char *of)
{
    static uint64_t number = 1000;
    struct stat st;
    assert_int_equal(stat(of, &st), 0);
    if (strcmp(path, of) == 0)
        assert_int_equal(unlink(path), 0);
    make_file(path, (size_t)st.st_size, number++);
    restore_mtime(path, &st);
}

static void another_renamed_over(void)
{
    char directory[64];
    struct stat st = directory_of("tree/d05/f02", directory);
    make_twin("tree/d05/new", "tree/d05/f02");
    assert_int_equal(rename("tree/d05/new", "tree/d05/f02"), 0);
    restore_mtime(directory, &st);
}

static void link_added(void)
{
    assert_int_equal(link("tree/d31/f07", "tree/d32/link"), 0);
}

static void swap(const char *one, const char *other)
{
    char directory[64], other_directory[64];
    struct stat st = directory_of(one, directory);
    struct stat other_st = directory_of(other, other_directory);
    assert_int_equal(renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE), 0);
    restore_mtime(directory, &st);
    restore_mtime(other_directory, &other_st);
}

static void links_switched(void)
{
    swap("tree/d34/link", "tree/d36/link");
}

static void link_removed(void)
{
    assert_int_equal(unlink("tree/d32/link"), 0);
}

static void mode_changed(void)
{
    struct stat st;
    assert_int_equal(stat("tree/d21/f10", &st), 0);
    assert_int_equal(chmod("tree/d21/f10", (st.st_mode & 07777) ^ 011), 0);
}

static void attribute_changed(void)
{
    static char value[] = "0";
    value[0]++;
    assert_int_equal(setxattr("tree/d24/f06", "user.a", value, 1, 0), 0);
}

static void cut_and_grown_again(void)
{
    struct stat st;
    assert_int_equal(stat("tree/d09/f11", &st), 0);
    write_text("tree/d09/f11", 90);
    assert_int_equal(truncate("tree/d09/f11", 100), 0);
    assert_int_equal(truncate("tree/d09/f11", st.st_size), 0);
    restore_mtime("tree/d09/f11", &st);
}

/* File systems like to give the number of the file that went last. */
static void same_inode_number(void)
{
    char directory[64];
    struct stat st = directory_of("tree/d13/f03", directory);
    make_twin("tree/d13/f03", "tree/d13/f03");
    restore_mtime(directory, &st);
}

static void hole_filled(void)
{
    static uint64_t offset = 8 * MIB;
    write_text("tree/sparse", offset += MIB);
}

static void files_swapped(void)
{
    swap("tree/d17/f01", "tree/d17/f02");
}

static void directories_swapped(void)
{
    swap("tree/d27", "tree/d28");
}

static void large_removed(void)
{
    assert_int_equal(unlink("tree/large"), 0);
}

static const struct change {
    const char *name;
    void (*make)(void);
    bool is_once;
} changes[] = {
    {"same-size-and-mtime", same_size_and_mtime, false},
    {"within-a-large-file", within_a_large_file, false},
    {"mapped", stored_to_a_mapping, false},
    {"renamed-over", another_renamed_over, false},
    {"link-added", link_added, true},
    {"links-switched", links_switched, false},
    {"link-removed", link_removed, true},
    {"mode", mode_changed, false},
    {"attribute", attribute_changed, false},
    {"cut-and-grown", cut_and_grown_again, false},
    {"same-inode", same_inode_number, false},
    {"hole-filled", hole_filled, false},
    {"files-swapped", files_swapped, false},
    {"directories-swapped", directories_swapped, false},
    {"large-removed", large_removed, true},
};
#define CHANGES (sizeof(changes) / sizeof(*changes))

static void map_file(void)
{
    cleanup_close int fd = open("tree/mapped", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    mapping = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(mapping, MAP_FAILED);
    stored_to_a_mapping(); /* from here on its page is dirty */
}

static void unmap_file(void)
{
    assert_int_equal(munmap(mapping, 2 * MIB), 0);
}

static void check_change(const struct change *change, bool is_shared)
{
    change->make();
    struct take_result result = take_both(change->name);
    assert_true(result.taken_frames > 0);
    assert_true(result.read_bytes > 0);
    if (is_shared)
        assert_true(result.shared_bytes > 0);
    else
        assert_int_equal(result.shared_bytes, 0);
}

/* All of them, long before it is taken: a file's ctime alone tells of it. */
static void changes_of_long_ago(void)
{
    for (size_t i = 0; i < CHANGES; i++)
        if (!changes[i].is_once)
            changes[i].make();
    wait_until_settled();
    struct take_result result = take_both("long-ago");
    assert_true(result.taken_frames > 0 && result.read_bytes > 0);
}

static void change_by_change(bool is_shared)
{
    map_file();
    wait_until_settled();
    (void)take_both("first");
    check_by_tools("first", "d34");
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"mapped-1", "mapped-2", "mapped-3"};
        check_change(&(struct change){.name = names[i], .make = stored_to_a_mapping}, is_shared);
    }
    changes_of_long_ago();
    for (size_t i = 0; i < CHANGES; i++)
        check_change(&changes[i], is_shared);
    check_by_tools(changes[CHANGES - 1].name, "d34"); /* switched twice */
    unmap_file();
}

/* ---- no change ------------------------------------------------------------------------------- */

static void without_a_change(void)
{
    same_size_and_mtime(); /* so that the first has something to read, however slow we are */
    wait_until_settled();
    struct take_result first = take_both("settled");
    assert_true(atomic_load(&opened) > 0);
    struct take_result again = take_both("again");
    assert_int_equal(again.taken_frames, first.frames);
    assert_int_equal(again.read_bytes, 0);
    assert_int_equal(atomic_load(&opened), 0);
}

/* Of a file that was changed just before, it is not believed that it will show another. */
static void changed_just_before(void)
{
    make_file("tree/d19/f05", 10000, 5);
    (void)take_both("just-changed");
    struct take_result again = take_both("just-changed-again");
    assert_true(again.read_bytes > 0 && again.read_bytes < 4 * MIB);
    wait_until_settled();
    (void)take_both("not-just-changed");
    assert_int_equal(take_both("not-just-changed-again").read_bytes, 0);
}

/* ---- changes while it is taken -------------------------------------------------------------- */

static void hide_directory(void)
{
    assert_int_equal(rename("tree/d38", "hidden"), 0);
}

/* The index was begun when nothing was gone: it has as many entries as the archive has names
 * all the same. */
static void check_index_has(const char *path, const char *names)
{
    struct index *index cleanup_index = NULL;
    struct index_about about;
    assert_int_equal(index_open(path, &index, NULL), 0);
    index_about(index, &about);
    assert_int_equal(
        try_shell("test $(sort -u %s | wc -l) = %llu", names, (unsigned long long)about.entries),
        0);
}

/* Files that are gone when they are read, and then back, with the ctimes they had. */
static void gone_for_a_while(void)
{
    assert_int_equal(try_shell("rm -r store"), 0);
    before_first = hide_directory;
    (void)take_in("store", "without");
    before_first = NULL;
    assert_int_equal(try_shell("zstd -dcq store/volume/without.tar.zst | tar tf - >names"), 0);
    assert_int_not_equal(try_shell("grep -q d38/f names"), 0);
    check_index_has("store/volume/without.index", "names");
    assert_int_equal(rename("hidden", "tree/d38"), 0);
    struct take_result result = take_both("with");
    assert_true(result.taken_frames > 0 && result.read_bytes > 0);
    assert_int_equal(try_shell("zstd -dcq store/volume/with.tar.zst | tar tf - | grep -q d38/f"),
                     0);
}

static void remove_first_name(void)
{
    assert_int_equal(unlink("tree/d03/f03"), 0);
}

/* The first name of a file goes, and a link to it is in a group that did not change. */
static void first_name_gone(void)
{
    make_file("tree/d03/f02", 5000, 77);
    before_first = remove_first_name;
    (void)take_in("store", "links");
    before_first = NULL;
    assert_int_equal(
        try_shell("rm -rf out && mkdir out && zstd -dcq store/volume/links.tar.zst | "
                  "tar -C out -xf - && diff -r --no-dereference --exclude=fifo tree out"),
        0);
    assert_int_equal(try_shell("rm -r out"), 0);
}

static struct cancel *cancel;

static void raise_cancel(void)
{
    cancel_raise(cancel);
}

static void given_up(void)
{
    struct take_result result;
    cancel = cancel_new();
    assert_non_null(cancel);
    assert_int_equal(try_shell("rm -r store"), 0);
    before_first = raise_cancel;
    assert_int_equal(try_take("store", "given-up", cancel, &result, NULL), -EINTR);
    before_first = NULL;
    cancel_unref(cancel);
    check_nothing_left("store");
    assert_int_equal(access("store/volume/given-up.tar.zst", F_OK), -1);
}

static void the_same_name(void)
{
    struct take_result result;
    struct fail why = FAIL_INIT;
    (void)take_in("store", "name");
    assert_int_equal(try_take("store", "name", NULL, &result, &why), -EEXIST);
    assert_int_equal(atomic_load(&opened), 0);
    check_nothing_left("store");
}

/* ---- a write that takes its time ----------------------------------------------------------- */

#define SLOW_BYTES (2 * MIB)

/* Memory whose second half is not there before it is given: whoever reads it waits. */
struct slow {
    char *memory;
    int fault_fd;
    int file;
};

static bool slow_begin(struct slow *slow)
{
    struct uffdio_api api = {.api = UFFD_API};
    slow->fault_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (slow->fault_fd < 0 || ioctl(slow->fault_fd, UFFDIO_API, &api) < 0)
        return false;
    slow->memory =
        mmap(NULL, SLOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(slow->memory, MAP_FAILED);
    fill(slow->memory, SLOW_BYTES / 2, 4321);
    struct uffdio_register half = {
        .range = {.start = (uintptr_t)slow->memory + SLOW_BYTES / 2, .len = SLOW_BYTES / 2},
        .mode = UFFDIO_REGISTER_MODE_MISSING};
    assert_int_equal(ioctl(slow->fault_fd, UFFDIO_REGISTER, &half), 0);
    slow->file = open("tree/rewritten", O_WRONLY | O_CLOEXEC);
    return slow->file >= 0;
}

static void *slow_write_main(void *data)
{
    const struct slow *slow = data;
    assert_int_equal(pwrite(slow->file, slow->memory, SLOW_BYTES, 0), SLOW_BYTES);
    return NULL;
}

static void *take_main(void *data)
{
    (void)data;
    (void)take_in("store", "slow");
    return NULL;
}

/* Until the write waits for its memory. */
static void wait_for_fault(const struct slow *slow)
{
    struct uffd_msg message;
    assert_int_equal(read(slow->fault_fd, &message, sizeof(message)), sizeof(message));
    assert_int_equal(message.event, UFFD_EVENT_PAGEFAULT);
}

static void let_go(const struct slow *slow)
{
    cleanup_free char *rest = malloc(SLOW_BYTES / 2 + 4096);
    assert_non_null(rest);
    fill(rest, SLOW_BYTES / 2, 8765);
    struct uffdio_copy copy = {.dst = (uintptr_t)slow->memory + SLOW_BYTES / 2,
                               .src = (uintptr_t)rest,
                               .len = SLOW_BYTES / 2};
    assert_int_equal(ioctl(slow->fault_fd, UFFDIO_COPY, &copy), 0);
}

/* The file's ctime is from when the write began, long before the rest of it comes. */
static void a_slow_write(void)
{
    struct slow slow;
    pthread_t writer, taker;
    struct timespec limit;
    if (!slow_begin(&slow))
        return;
    assert_int_equal(pthread_create(&writer, NULL, slow_write_main, &slow), 0);
    wait_for_fault(&slow);
    wait_until_settled();
    assert_int_equal(pthread_create(&taker, NULL, take_main, NULL), 0);
    (void)clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 3; /* it waits, or was done with it long before */
    bool is_done = pthread_timedjoin_np(taker, NULL, &limit) == 0;
    let_go(&slow);
    assert_int_equal(pthread_join(writer, NULL), 0);
    if (!is_done)
        assert_int_equal(pthread_join(taker, NULL), 0);
    (void)close(slow.file);
    (void)close(slow.fault_fd);
    assert_int_equal(munmap(slow.memory, SLOW_BYTES), 0);
    (void)take_both("after-slow");
}

/* ---- an earlier one that cannot be trusted --------------------------------------------------- */

static void with_a_damaged_index(void)
{
    wait_until_settled();
    (void)take_both("sound");
    for (unsigned i = 0; i < 12; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "damaged-%u", i);
        assert_int_equal(
            try_shell("for index in store/volume/*.index; do "
                      "printf X%u | dd of=$index bs=1 seek=$((%u * 4099)) conv=notrunc "
                      "status=none; done",
                      i, i),
            0);
        (void)take_both(name);
    }
}

/* What the disk changed in frames of the newest one is compressed anew: where nothing else
 * changed, and where something did. */
static void with_a_damaged_archive(void)
{
    wait_until_settled();
    (void)take_both("undamaged");
    for (unsigned i = 0; i < 4; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "frame-%u", i);
        if (i % 2)
            same_size_and_mtime();
        assert_int_equal(
            try_shell("for archive in store/volume/*.tar.zst; do "
                      "printf XXXX | dd of=$archive bs=1 seek=%u conv=notrunc status=none; done",
                      5000 + i * 70000),
            0);
        struct take_result result = take_both(name);
        assert_true(result.taken_frames > 0 && result.read_bytes > 0);
    }
}

static void with_a_cut_archive(void)
{
    assert_int_equal(try_shell("truncate -s -1000 store/volume/*.tar.zst"), 0);
    struct take_result result = take_both("after-cut");
    assert_int_equal(result.taken_frames, 0);
}

/* ---- places ------------------------------------------------------------------------------------
 */

static bool have_own_mounts(void)
{
    static int have = -1;
    if (have < 0)
        have = enter_own_mounts() && mkdir("disk", 0700) == 0;
    return have;
}

static void on(const char *mkfs, bool is_shared)
{
    if (!have_own_mounts() ||
        try_shell("PATH=$PATH:/sbin:/usr/sbin; truncate -s 600M image && %s image >/dev/null 2>&1",
                  mkfs) ||
        try_shell("mount -o loop image disk 2>/dev/null"))
        skip();
    assert_int_equal(chdir("disk"), 0);
    make_tree();
    change_by_change(is_shared);
    without_a_change();
    changed_just_before();
    a_slow_write();
    gone_for_a_while();
    first_name_gone();
    given_up();
    the_same_name();
    with_a_damaged_index();
    with_a_damaged_archive();
    with_a_cut_archive();
    assert_int_equal(chdir(".."), 0);
    assert_int_equal(try_shell("umount -l disk && rm image"), 0);
}

static void on_ext4(void **state)
{
    (void)state;
    on("mkfs.ext4 -q -F", false);
}

static void on_xfs(void **state)
{
    (void)state;
    on("mkfs.xfs -f -q -m reflink=1", true);
}

static void on_btrfs(void **state)
{
    (void)state;
    on("mkfs.btrfs -f -q", true);
}

/* Stores to a mapping leave no trace there at all. */
static void on_tmpfs(void **state)
{
    (void)state;
    if (!have_own_mounts() || mount("none", "disk", "tmpfs", 0, "size=200m") < 0)
        skip();
    assert_int_equal(chdir("disk"), 0);
    make_tree();
    map_file();
    wait_until_settled();
    (void)take_both("first");
    stored_to_a_mapping();
    assert_int_equal(take_both("second").taken_frames, 0);
    unmap_file();
    assert_int_equal(chdir(".."), 0);
    assert_int_equal(umount2("disk", MNT_DETACH), 0);
}

static void on_a_full_disk(void **state)
{
    (void)state;
    if (!have_own_mounts() || mount("none", "disk", "tmpfs", 0, "size=4m") < 0)
        skip();
    make_tree();
    struct take_result result;
    struct fail why = FAIL_INIT;
    assert_int_equal(try_take("disk/store", "full", NULL, &result, &why), -ENOSPC);
    assert_non_null(strstr(why.text, "No space left"));
    check_nothing_left("disk/store");
    assert_int_equal(umount2("disk", MNT_DETACH), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_ext4),  cmocka_unit_test(on_xfs),         cmocka_unit_test(on_btrfs),
        cmocka_unit_test(on_tmpfs), cmocka_unit_test(on_a_full_disk),
    };
    return cmocka_run_group_tests(tests, enter_test_dir, leave);
}
