// What the C interfaces share: visibility and return codes.
#ifndef MEDCALIB_EXPORT_H
#define MEDCALIB_EXPORT_H

#if defined(_WIN32)
#define MC_EXPORT extern "C" __declspec(dllexport)
#else
#define MC_EXPORT extern "C" __attribute__((visibility("default")))
#endif

enum { MC_OK = 0, MC_BAD_LABEL = 1, MC_NO_MEMORY = 2, MC_UNSUPPORTED = 3, MC_BAD_VALUE = 4 };

#endif
