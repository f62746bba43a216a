/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SSDT of a machine with PCI Express root ports (devices/pcie_port.c): the guest may have native
 * hot-plug, PME and the Express capability, and nothing else. Control is the third dword of the
 * capabilities buffer (PCI Firmware 3.2, 4.5.1).
 */
DefinitionBlock ("pcie.aml", "SSDT", 2, "TORPOR", "TORPPCIE", 0x00000001)
{
	External (\_SB.PCI0, DeviceObj)
	Scope (\_SB.PCI0)
	{
		Method (_OSC, 4, NotSerialized)
		{
			CreateDWordField (Arg3, 0x00, STS)
			If (LEqual (Arg0, ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766")))
			{
				CreateDWordField (Arg3, 0x08, CTRL)
				And (CTRL, 0x15, CTRL)
			}
			Else
			{
				Or (STS, 0x04, STS)
			}
			Return (Arg3)
		}
	}
}
